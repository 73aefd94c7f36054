"""The HTTP application, put together from its parts; nothing is built at import."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from service import release
from service.api.dependencies import Parts
from service.api.middleware import (
    BodyBudget,
    BodyLimitMiddleware,
    RequestContextMiddleware,
    StoppingMiddleware,
)
from service.api.openapi import openapi_of
from service.api.page import add_page
from service.api.responses import problem_response
from service.api.routes import captions, health, huggingface, models, ollama, openai, photoprism, scores
from service.captioning import Captioning
from service.engine.engine import Engine, EngineSettings
from service.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError, ServiceError
from service.images import ImageLimits
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.registry import ServedModel
from service.settings import Settings

DESCRIPTION = """
Captions for photos, each with CLIP's own judgement of how well it fits.

Errors are RFC 9457 problem documents with a stable `type`. An `X-Request-ID` that you send comes back and
stands in the service's log.
"""


class AppState(TypedDict):
    """What the lifespan hands to every request."""

    parts: Parts


def create_app(settings: Settings, model: ServedModel, *, lifecycle: Lifecycle | None = None) -> FastAPI:
    """The application around one loaded model; its engine starts and stops with the application."""
    lifecycle = lifecycle or Lifecycle()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[AppState]:
        engine = _build_engine(settings, model, metrics=metrics, lifecycle=lifecycle)
        pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="semicap-decode")
        await run_in_threadpool(engine.start)
        try:
            captioning = _build_captioning(settings, model, engine=engine, pool=pool, metrics=metrics)
            yield {"parts": Parts(settings, model, engine, captioning, metrics, lifecycle)}
        finally:
            await run_in_threadpool(engine.stop, drain_s=settings.drain_s)
            pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPIOffline(  # /docs without a CDN
        redoc_url=None,
        title="semicap",
        version=release(),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=_middleware(settings, metrics=metrics, lifecycle=lifecycle),
        exception_handlers={
            ServiceError: _answer_service_error,
            HTTPException: _answer_http_error,
            RequestValidationError: _answer_invalid_request,
        },
        generate_unique_id_function=lambda route: route.name,
    )
    for module in (captions, scores, models, openai, ollama, photoprism, huggingface, health):
        app.include_router(module.router)
    add_page(app)
    openapi = openapi_of(app)
    app.openapi = lambda: openapi  # type: ignore[method-assign]
    return app


def _build_engine(
    settings: Settings, model: ServedModel, *, metrics: Metrics, lifecycle: Lifecycle
) -> Engine:
    clip = model.captioner.clip
    metrics.set_model(name=model.name, version=model.version, scorer=clip.name, scorer_revision=clip.revision)
    return Engine(
        model.captioner,
        settings=EngineSettings(max_depth=settings.max_queued_images),
        observer=metrics,
        on_fatal=lifecycle.fail,
    )


def _build_captioning(
    settings: Settings, model: ServedModel, *, engine: Engine, pool: ThreadPoolExecutor, metrics: Metrics
) -> Captioning:
    return Captioning(
        engine,
        preprocess=model.captioner.clip.preprocess,
        limits=ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        pool=pool,
        on_rejected=metrics.image_rejected,
    )


def _middleware(settings: Settings, *, metrics: Metrics, lifecycle: Lifecycle) -> list[Middleware]:
    budget = BodyBudget(settings.max_body_bytes_in_flight, settings.retry_after_s)
    return [
        Middleware(RequestContextMiddleware, metrics=metrics),
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_request_bytes, budget=budget),
        Middleware(StoppingMiddleware, lifecycle=lifecycle),
    ]


async def _answer_service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):
        raise error
    return problem_response(error)


async def _answer_invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    return problem_response(InvalidRequestError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
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
