"""Which files of a folder, a shard or an upload are photos, by their names."""

PHOTO_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".avif", ".jp2", ".j2k", ".heic", ".heif"),
    )
)
"""In lower case. HEIC is among them where nothing here reads it, too: such a photo fails with the reason, and
is not passed over."""
