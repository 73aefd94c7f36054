"""How the broker is named."""

from urllib.parse import urlsplit


def check_broker_url(url: str | None) -> str | None:
    """The URL itself; raises ValueError where it is none, without a word of it: it may hold a password."""
    try:
        _ = url and urlsplit(url).port
    except ValueError:
        raise ValueError(
            "not a URL with a host and a port; in a password write /, #, ?, @, [ and ] as %2F, %23, …"
        ) from None
    return url
