"""Pages of other sites, while no key is required: the browser they run in is answered, they must not be."""

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import ForeignPageError, UnknownHostError
from service.settings import Settings

_READING = ("GET", "HEAD", "OPTIONS")
_OWN_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site, which no page can forge: our own page, and what a person has typed."""
_PRIVATE_SUFFIXES = (".localhost", ".internal")
"""Reserved (RFC 6761; ICANN, 29 July 2024): nobody can make public DNS lead such a name here."""


class OriginRules:
    """Which host names and which pages are answered while no key is required.

    Args:
        origins: of pages that may ask for anything; * is all.
        hosts: names of the service beside those that public DNS cannot hold; None is any name, * as well.
    """

    def __init__(self, *, origins: tuple[str, ...], hosts: tuple[str, ...] | None) -> None:
        self.origins = origins
        self.hosts = None if hosts is None or "*" in hosts else frozenset(map(host_name, hosts))

    @classmethod
    def of(cls, settings: Settings) -> "OriginRules":
        """Any name where the operator has opened the service to others and has named no hosts."""
        takes_any_host = settings.open_access and not settings.hosts
        return cls(origins=settings.cors_origins, hosts=None if takes_any_host else settings.hosts)

    def check(self, scope: Scope) -> None:
        """Returns when a request comes from no page, from our own, or from one that may.

        Raises:
            UnknownHostError: a page may have let a name of its own lead here (DNS rebinding).
            ForeignPageError: another site's page asks to change or compute something.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host_name(host)):
            raise UnknownHostError(
                f"the service is not known as {host[:200]!r}; while there are no API keys it answers to IP "
                "addresses, localhost and the names in SEMICAP_HOSTS"
            )
        if scope["method"] not in _READING and self._is_foreign(headers, host=host):
            raise ForeignPageError(
                f"a page of {headers.get('origin', 'another site')[:200]!r} may not ask for this; "
                "SEMICAP_CORS_ORIGINS names those that may"
            )

    def _is_ours(self, name: str) -> bool:
        if self.hosts is None or "." not in name or name.endswith(_PRIVATE_SUFFIXES):
            return True
        return name in self.hosts or _is_address(name)

    def _is_foreign(self, headers: Headers, *, host: str) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if "*" in self.origins or origin in self.origins:
            return False
        if site is not None:  # of a browser; where a proxy has changed the host, it alone can tell
            return site.lower() not in _OWN_SITE
        return origin is not None and origin.partition("://")[2].lower() != host.lower()


def host_name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
