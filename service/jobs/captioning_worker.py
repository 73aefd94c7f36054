"""A worker's engine: the model that a process begins with, in front of the versions that jobs name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import structlog

from service.engine.engine import Engine, EngineSettings
from service.engine.speed import Wanted
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.parts import JobParts
from service.jobs.worker_models import WorkerModels
from service.metrics import Metrics
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry
from service.registry import ServedModel
from service.serving import Loaded
from service.settings import Settings

log = structlog.stdlib.get_logger("semicap.worker")


@contextmanager
def captioner_of(settings: Settings, parts: JobParts, metrics: Metrics) -> Iterator[ItemCaptioner]:
    """What captions the photos of jobs, as long as it is needed.

    Raises:
        CommandError: there is no model or device as set.
    """
    registry = ModelRegistry(parts.store, settings.model_cache)
    model, choice = load_chosen(registry, settings)
    models = WorkerModels(
        registry,
        default=choice,
        first=Loaded(model, _start_engine(model, metrics, precision=settings.precision)),
        start=lambda other, before: _start_engine(
            other, metrics, precision=before.precision_for(other, settings.precision)
        ),
        device=settings.device,
    )
    try:
        yield ItemCaptioner(
            models,
            parts.datasets,
            limits=ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            decode_threads=settings.decode_threads,
        )
    finally:
        models.stop()


def _start_engine(model: ServedModel, metrics: Metrics, *, precision: Wanted) -> Engine:
    has_started = Event()  # a version that cannot run is its job's trouble, not the worker's end
    engine = Engine(
        model.captioner,
        settings=EngineSettings(precision=precision),
        observer=metrics,
        on_fatal=lambda error: _die(error) if has_started.is_set() else None,
    )
    engine.start()
    has_started.set()
    metrics.set_model(model.entry)
    return engine


def _die(error: BaseException) -> None:
    """A worker without an engine must not take chunks; whoever started it starts it again."""
    log.error("engine_died", error=repr(error))
    os._exit(1)
