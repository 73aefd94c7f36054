"""What surrounds every request, put together: the outermost first."""

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service.api.access import METRICS_PATH, OPEN_PATHS, AccessMiddleware
from service.api.middleware import (
    REQUEST_ID_HEADER,
    BodyBudget,
    BodyLimitMiddleware,
    RequestContextMiddleware,
    StoppingMiddleware,
)
from service.api.origins import OriginRules
from service.errors import CommandError
from service.key_ring import KeyRing
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.rate_limits import RateLimits
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ALLOWED_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "X-API-Key", REQUEST_ID_HEADER)
_EXPOSED_HEADERS = (REQUEST_ID_HEADER, "Location", "Retry-After")


def middleware_stack(
    settings: Settings,
    *,
    ring: KeyRing,
    rates: RateLimits,
    metrics: Metrics,
    lifecycle: Lifecycle,
    tracer_provider: "TracerProvider | None",
) -> list[Middleware]:
    """A request is timed, traced, told whether its page may ask, let in or refused, counted as it streams."""
    budget = BodyBudget(settings.max_body_bytes_in_flight, settings.retry_after_s)
    return [
        Middleware(RequestContextMiddleware, metrics=metrics),
        *_tracing(tracer_provider),
        *_cross_origin(settings),
        Middleware(
            AccessMiddleware,
            ring=ring,
            origins=OriginRules.of(settings),
            rates=rates,
            metrics=metrics,
            open_paths=open_paths(settings),
        ),
        Middleware(
            BodyLimitMiddleware,
            max_bytes=settings.max_request_bytes,
            max_s=settings.body_timeout_s,
            budget=budget,
            spooled={"/v1/datasets": settings.max_dataset_bytes},
        ),
        Middleware(StoppingMiddleware, lifecycle=lifecycle),
    ]


def open_paths(settings: Settings) -> tuple[str, ...]:
    """How the paths begin that need no key."""
    return (*OPEN_PATHS, METRICS_PATH) if settings.open_metrics else OPEN_PATHS


def tracer_provider_of(settings: Settings) -> "TracerProvider | None":
    """What collects spans, where tracing is on.

    Raises:
        CommandError: it is on and its packages are not installed.
    """
    if not settings.tracing:
        return None
    try:
        from service.api.tracing import provider_of_environment
    except ImportError as error:
        raise CommandError("SEMICAP_TRACING needs OpenTelemetry: pip install 'semicap[otel]'") from error
    return provider_of_environment()


def _tracing(provider: "TracerProvider | None") -> list[Middleware]:
    if provider is None:
        return []
    from service.api.tracing import TracingMiddleware

    return [Middleware(TracingMiddleware, provider=provider)]


def _cross_origin(settings: Settings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
    ]
