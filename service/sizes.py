"""Numbers of bytes as a person reads them."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size_text(num_bytes: int) -> str:
    """`913 bytes`, `2.1 kB`, `26.3 MB`: powers of 1000, as file managers count."""
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{num_bytes} bytes"
