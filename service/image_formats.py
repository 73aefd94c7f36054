"""The image formats that are read; all others are refused before a decoder sees them."""

from functools import cache

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""Pillow's names of the formats that are read; its other decoders (EPS among them) are never reached."""

MEDIA_TYPES = tuple(f"image/{name}" for name in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "jp2"))


@cache
def formats() -> tuple[str, ...]:
    """FORMATS, and an iPhone's HEIF where the extra `heic` is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return FORMATS
    register_heif_opener()
    return (*FORMATS, "HEIF")


def recognised_format(header: bytes) -> str | None:
    """The format that a file's first bytes announce."""
    Image.init()  # else Pillow knows no format before it has opened a file
    for name in formats():
        _, accept = Image.OPEN[name]
        if accept is not None and accept(header) is True:
            return name
    return None
