"""The HTTP application, put together from its parts; nothing is built at import."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from obstore.store import MemoryStore
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import release
from service.api.dependencies import Parts
from service.api.job_service import JobService
from service.api.models_setup import ServingLoader
from service.api.openapi import openapi_of
from service.api.page import add_page
from service.api.responses import problem_response
from service.api.routes import (
    captions,
    datasets,
    finetunes,
    health,
    huggingface,
    jobs,
    models,
    ollama,
    openai,
    photoprism,
    scores,
)
from service.api.security import add_security, with_keys_required
from service.api.stack import middleware_stack, open_paths, tracer_provider_of
from service.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError, ServiceError
from service.fetch import FetchLimits, ImageFetcher
from service.jobs.store import ArtifactStore
from service.key_ring import KeyRing
from service.keys import KeyStore
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.model_registry import ModelRegistry
from service.model_service import ModelService
from service.rate_limits import RateLimits
from service.registry import ServedModel
from service.serving import Handover, ModelSwitch
from service.settings import Settings

DESCRIPTION = """
Captions for photos, each with CLIP's own judgement of how well it fits.

Errors are RFC 9457 problem documents with a stable `type`. An `X-Request-ID` that you send comes back and
stands in the service's log.
"""


_UNREADABLE_STATUS = 400

DRAIN_GRACE_S = 5.0
"""On top of a request's deadline, before what is left on a retired engine is failed."""


class AppState(TypedDict):
    """What the lifespan hands to every request."""

    parts: Parts


def create_app(
    settings: Settings,
    model: ServedModel | Handover,
    *,
    lifecycle: Lifecycle | None = None,
    registry: ModelRegistry | None = None,
) -> FastAPI:
    """The application around one loaded model; its engine starts and stops with the application.

    Args:
        model: what answers first; handed over, it leaves memory when another version takes its place.
        registry: where other versions are, which may take the model's place; None knows no others.
    """
    lifecycle = lifecycle or Lifecycle()
    metrics = Metrics()
    ring = KeyRing(KeyStore(settings.keys_file))
    rates = RateLimits(settings.rate_limit, redis_url=settings.redis_url)
    tracer_provider = tracer_provider_of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[AppState]:
        pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="semicap-decode")
        switch = ModelSwitch(drain_s=settings.deadline_s + DRAIN_GRACE_S)
        loader = ServingLoader(settings, switch, pool=pool, metrics=metrics, lifecycle=lifecycle)
        switch.put(
            await run_in_threadpool(loader.start, model.take() if isinstance(model, Handover) else model)
        )
        metrics.set_model(switch.current.model.entry)
        versions = ModelService(
            registry or ModelRegistry(ArtifactStore(MemoryStore()), settings.model_cache),
            switch,
            load=loader.beside_current,
            metrics=metrics,
            is_pinned=registry is None or settings.checkpoint is not None,
        )
        job_service: JobService | None = None
        try:
            job_service = _build_jobs(settings, lifecycle=lifecycle)
            fetcher = _build_fetcher(settings)
            parts = Parts(settings, versions, metrics, lifecycle, fetcher, job_service)
            versions.start()
            yield {"parts": parts}
        finally:
            await _stop_jobs(job_service)
            await run_in_threadpool(versions.stop)
            await run_in_threadpool(switch.stop, drain_s=settings.drain_s)
            pool.shutdown(wait=False, cancel_futures=True)
            await rates.close()
            if tracer_provider is not None:
                await run_in_threadpool(tracer_provider.shutdown)

    app = FastAPIOffline(  # /docs without a CDN
        redoc_url=None,
        title="semicap",
        version=release(),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=middleware_stack(
            settings,
            ring=ring,
            rates=rates,
            metrics=metrics,
            lifecycle=lifecycle,
            tracer_provider=tracer_provider,
        ),
        exception_handlers={
            ServiceError: _answer_service_error,
            HTTPException: _answer_http_error,
            RequestValidationError: _answer_invalid_request,
        },
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (
        captions,
        scores,
        datasets,
        jobs,
        finetunes,
        models,
        openai,
        ollama,
        photoprism,
        huggingface,
        health,
    ):
        app.include_router(module.router)
    add_page(app)
    openapi = openapi_of(app)
    add_security(openapi, open_paths=open_paths(settings))
    closed_openapi = with_keys_required(openapi)
    app.openapi = lambda: closed_openapi if ring.is_required else openapi  # type: ignore[method-assign]
    return app


def _build_jobs(settings: Settings, *, lifecycle: Lifecycle) -> JobService | None:
    """None without a broker: then captions work and jobs answer 503."""
    if settings.redis_url is None:
        return None
    jobs = JobService.build(settings, is_stopping=lambda: lifecycle.is_stopping)
    jobs.parts.keeper.start()
    return jobs


async def _stop_jobs(jobs: JobService | None) -> None:
    if jobs is not None:
        await run_in_threadpool(jobs.parts.close)
        jobs.thumbnails.close()
        await jobs.events.close()


def _build_fetcher(settings: Settings) -> ImageFetcher | None:
    limits = FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s)
    return ImageFetcher(limits) if settings.fetch_urls else None


async def _answer_service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):
        raise error
    return problem_response(error)


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")  # pydantic's words before a validator's own
    return problem_response(InvalidRequestError(f"{'.'.join(map(str, first['loc']))}: {reason}"))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == _UNREADABLE_STATUS:
        return problem_response(_why_unreadable(error.__cause__))
    if error.status_code == MethodNotAllowedError.status:
        allowed = dict(error.headers or {}).get("Allow", "")
        response = problem_response(
            MethodNotAllowedError(
                f"{request.method} does not fit {request.url.path}; it takes {allowed or 'others'}"
            )
        )
        response.headers["Allow"] = allowed
        return response
    return problem_response(
        NotFoundError(f"there is nothing at {request.url.path}; /docs lists what there is")
    )


def _why_unreadable(cause: BaseException | None) -> ServiceError:
    """FastAPI puts one answer in the place of whatever keeps it from reading a body; the client gets that."""
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, ClientDisconnect):
        raise cause
    return InvalidRequestError("the body cannot be read; send JSON in UTF-8, nested less deeply")
