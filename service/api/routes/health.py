"""Health checks and metrics."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.dependencies import UseParts
from service.api.responses import problem_responses
from service.api.schemas import Health
from service.errors import EngineUnavailableError, StoppingError
from service.metrics import METRICS_MEDIA_TYPE

router = APIRouter(tags=["operations"])


@router.head("/health/live", include_in_schema=False)  # what monitors of uptime ask
@router.get("/health/live", summary="Whether the process answers")
async def live() -> Health:
    return Health()


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", include_in_schema=False)  # what Altbot and others look for
@router.get(
    "/health/ready",
    summary="Whether captions can be asked for",
    responses=problem_responses(StoppingError, EngineUnavailableError),
)
async def ready(parts: UseParts) -> Health:
    if parts.lifecycle.is_stopping:
        raise StoppingError("the service is stopping")
    if not parts.engine.is_alive():
        raise EngineUnavailableError("the captioning engine is not running; the service needs a restart")
    return Health()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(parts: UseParts) -> Response:
    if parts.jobs is not None:
        await run_in_threadpool(parts.jobs.queue_look.observe, parts.metrics)
    return Response(parts.metrics.render(), media_type=METRICS_MEDIA_TYPE)
