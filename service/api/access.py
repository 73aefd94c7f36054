"""Who may call what: API keys, their scopes and rates, looked at before a request's body is read."""

import ipaddress

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import keys
from service.api.origins import OriginRules
from service.api.responses import problem_response
from service.errors import MissingScopeError, NotAuthenticatedError, RateLimitedError, ServiceError
from service.key_ring import KeyRing
from service.keys import ApiKey
from service.metrics import Metrics
from service.rate_limits import RateLimits

OPEN_PATHS = ("/health", "/web/", "/docs", "/static-offline-docs/", "/openapi.json")
"""What anybody may read besides the page: its files, the documentation and health."""

METRICS_PATH = "/metrics"

KEY_STATE = "api_key"
"""Where a request's state has its key, where keys are required."""

_ANY = frozenset(keys.Scope)
_CAPTION = frozenset({keys.Scope.CAPTION})
_JOBS = frozenset({keys.Scope.JOBS})
_ADMIN = frozenset({keys.Scope.ADMIN})
_CLIENT_NETWORK_BITS = 64
"""Of an IPv6 address: what one customer usually has of them."""


class AccessMiddleware:
    """Lets a request pass when its key may do what it asks for, and not too often; pure ASGI.

    Args:
        origins: what is looked at instead while no key is required.
        open_paths: how the paths begin that need no key and have no rate.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ring: KeyRing,
        origins: OriginRules,
        rates: RateLimits,
        metrics: Metrics,
        open_paths: tuple[str, ...],
    ) -> None:
        self.app = app
        self.ring = ring
        self.origins = origins
        self.rates = rates
        self.metrics = metrics
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._check(scope)
            except ServiceError as error:
                self.metrics.request_refused(error.type)
                await problem_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        needs_key = self.ring.is_required
        if not needs_key:
            self.origins.check(scope)
        if is_open(scope["path"], self.open_paths):
            return
        key = self._key_of(scope) if needs_key else None
        if key is not None:
            scope.setdefault("state", {})[KEY_STATE] = key
            structlog.contextvars.bind_contextvars(key_id=key.id)
            _check_scope(key, scope)
        client = f"key:{key.id}" if key else f"address:{client_network(scope)}"
        wait_s = await self.rates.take(client, rate=key.rate_limit if key else None)
        if wait_s:
            raise RateLimitedError(
                "this client sends more requests than it may; wait, then send the next", retry_after_s=wait_s
            )

    def _key_of(self, scope: Scope) -> ApiKey:
        secret = _presented(Headers(scope=scope))
        if secret is None:
            raise NotAuthenticatedError(
                "send an API key as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'"
            )
        key = self.ring.find(secret)
        if key is None:
            raise NotAuthenticatedError("the API key is unknown or revoked; ask the operator for one")
        return key


def is_open(path: str, open_paths: tuple[str, ...]) -> bool:
    """Whether anybody may call a path."""
    return path == "/" or path.startswith(open_paths)


def wanted_scopes(method: str, path: str) -> frozenset[keys.Scope]:
    """The scopes of which a key needs one, for what is not open to all."""
    if path.startswith(("/v1/jobs", "/v1/datasets")):
        return _JOBS
    if path.startswith("/v1/models"):
        return _ANY if method in ("GET", "HEAD") else _ADMIN
    return _ANY if path.startswith(METRICS_PATH) else _CAPTION


def client_network(scope: Scope) -> str:
    """The address that a request came from, or its network where one client has many (IPv6)."""
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _CLIENT_NETWORK_BITS), strict=False))


def _check_scope(key: ApiKey, scope: Scope) -> None:
    wanted = wanted_scopes(scope["method"], scope["path"])
    if not key.allows(wanted):
        named = " or ".join(sorted(wanted))
        raise MissingScopeError(f"this needs the scope {named}; the key {key.id} has {', '.join(key.scopes)}")


def _presented(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key", "").strip() or None
