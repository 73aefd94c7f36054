"""`semicap worker`: the model, an engine around it, and the work."""

import os
from threading import Event
from typing import Literal

import structlog

from service.engine.engine import Engine, EngineSettings
from service.engine.speed import Wanted
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.parts import JobParts
from service.jobs.priority import give_way
from service.jobs.worker_models import WorkerModels
from service.jobs.working import work
from service.log import configure_logging
from service.metrics import Metrics
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry
from service.registry import ServedModel
from service.serving import Loaded
from service.settings import Settings

Only = Literal["captions", "finetunes"]

log = structlog.stdlib.get_logger("semicap.worker")


def run_worker(settings: Settings, *, nice: bool, only: Only | None) -> int:
    """Does jobs until a signal comes; the exit status.

    Args:
        nice: leaves the processors to the API, whose callers wait.
        only: the kind of jobs that it takes; None is both, of which one at a time is done.

    Raises:
        CommandError: there is no broker, store, model or device as set.
    """
    configure_logging(level=settings.log_level, format=settings.log_format)
    if nice:
        give_way()
    parts = JobParts.build(settings)
    if only == "finetunes":  # it needs no model before there is a job, and then in a process of its own
        return work(settings, parts, captioner=None, metrics=Metrics(), takes_finetunes=True)
    registry = ModelRegistry(parts.store, settings.model_cache)
    metrics = Metrics()
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
    captioner = ItemCaptioner(
        models,
        parts.datasets,
        limits=ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        decode_threads=settings.decode_threads,
    )
    try:
        return work(settings, parts, captioner=captioner, metrics=metrics, takes_finetunes=only != "captions")
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
