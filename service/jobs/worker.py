"""`semicap worker`: the model, an engine around it, and the work."""

import os
from typing import Literal

import structlog

from models.checkpoint import CheckpointError
from service.engine.engine import Engine, EngineSettings
from service.errors import CommandError
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.parts import JobParts
from service.jobs.working import work
from service.log import configure_logging
from service.metrics import Metrics
from service.model_store import ModelStore
from service.registry import DeviceError, ServedModel, load_served_model
from service.settings import Settings

Only = Literal["captions", "finetunes"]

_NICENESS = 5

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
        os.nice(_NICENESS)
    parts = JobParts.build(settings)
    if only == "finetunes":  # it needs no model before there is a job, and then in a process of its own
        return work(settings, parts, captioner=None, metrics=Metrics(), takes_finetunes=True)
    model = _load_model(settings)
    metrics = Metrics()
    engine = _start_engine(model, metrics, EngineSettings(precision=settings.precision))
    captioner = ItemCaptioner(
        engine,
        model,
        parts.datasets,
        limits=ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        decode_threads=settings.decode_threads,
    )
    try:
        return work(settings, parts, captioner=captioner, metrics=metrics, takes_finetunes=only != "captions")
    finally:
        engine.stop(drain_s=0)


def _load_model(settings: Settings) -> ServedModel:
    try:
        folder = ModelStore(settings.models_dir).find(settings.checkpoint)
        return load_served_model(folder, device=settings.device)
    except (CheckpointError, DeviceError) as error:
        raise CommandError(str(error)) from error


def _start_engine(model: ServedModel, metrics: Metrics, settings: EngineSettings) -> Engine:
    clip = model.captioner.clip
    metrics.set_model(name=model.name, version=model.version, scorer=clip.name, scorer_revision=clip.revision)
    engine = Engine(model.captioner, settings=settings, observer=metrics, on_fatal=_die)
    engine.start()
    return engine


def _die(error: BaseException) -> None:
    """A worker without an engine must not take chunks; whoever started it starts it again."""
    log.error("engine_died", error=repr(error))
    os._exit(1)
