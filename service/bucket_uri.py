"""How a prefix of a bucket is named."""

import re
from urllib.parse import urlsplit

SCHEMES = ("s3", "gs", "az")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")


def plain_uri(uri: str) -> str | None:
    """scheme://bucket/prefix without a slash at the end; None for what says more, a server or a password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    path = parts.path.strip("/")
    is_plain = (
        parts.scheme in SCHEMES
        and _BUCKET.fullmatch(parts.netloc) is not None
        and not parts.query
        and not parts.fragment
        and not any(part in ("", ".", "..") for part in path.split("/") if path)
        and path.isprintable()
        and not set(path) & set("%\\?#*")
    )
    return f"{parts.scheme}://{parts.netloc}/{path}".rstrip("/") if is_plain else None
