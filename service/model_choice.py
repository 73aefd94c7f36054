"""Which version a process answers with: the one that it is set to, or the one that is active."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from models.clip_folder import ClipError
from models.manifest import CheckpointError
from service.engine.speed import check_precision
from service.errors import CommandError, ModelNotFoundError
from service.model_registry import ModelRegistry, shipped_version
from service.model_versions import ModelVersion, version_of
from service.registry import DeviceError, ServedModel, load_served_model, resolve_device
from service.settings import Settings

log = structlog.stdlib.get_logger("semicap.models")


@dataclass(frozen=True)
class Choice:
    """A version and its checkpoint folder.

    Args:
        is_pinned: SEMICAP_CHECKPOINT names it, whatever is activated.
    """

    entry: ModelVersion
    folder: Path
    is_pinned: bool

    def load(self, *, device: str) -> ServedModel:
        """Raises CheckpointError, DeviceError, as load_served_model."""
        return load_served_model(self.folder, device=device, entry=self.entry)


def pinned(registry: ModelRegistry, checkpoint: Path) -> Choice:
    """What SEMICAP_CHECKPOINT names: a checkpoint folder, else a version of the registry.

    Raises:
        CheckpointError: neither, or the store has lost or damaged it.
    """
    if checkpoint.is_dir():
        try:
            return Choice(version_of(checkpoint, origin="folder"), checkpoint, is_pinned=True)
        except ClipError as error:
            raise CheckpointError("has a CLIP that cannot be loaded", checkpoint, cause=error) from error
    try:
        entry = registry.find(str(checkpoint))
    except ModelNotFoundError as error:
        raise CheckpointError(f"is not a checkpoint folder, and {error}", checkpoint) from error
    return Choice(entry, registry.folder(entry), is_pinned=True)


def load_chosen(registry: ModelRegistry, settings: Settings) -> tuple[ServedModel, Choice]:
    """The model that a process begins with: what it is pinned to, else what is active.

    An active version that cannot be loaded is logged, and what was active before it answers in its place.

    Raises:
        CommandError: what SEMICAP_CHECKPOINT names cannot be loaded, or there is no such device, or it cannot
            compute in the format asked for.
    """
    _check_precision(settings)
    try:
        if settings.checkpoint is not None:
            choice = pinned(registry, settings.checkpoint)
            return choice.load(device=settings.device), choice
        for choice in _active_first(registry):
            try:
                return choice.load(device=settings.device), choice
            except CheckpointError as error:
                log.error("active_model_not_loaded", model=choice.entry.id, error=str(error))
        raise CommandError("the model that comes along cannot be loaded; install semicap again")
    except (CheckpointError, DeviceError) as error:
        raise CommandError(str(error)) from error


def _check_precision(settings: Settings) -> None:
    """Before the seconds that loading takes, and not by the engine's thread, which can only die of it."""
    try:
        check_precision(settings.precision, torch.device(resolve_device(settings.device)))
    except DeviceError as error:
        raise CommandError(str(error)) from error
    except ValueError as error:
        raise CommandError(f"SEMICAP_PRECISION is {settings.precision}: {error}") from error


def _active_first(registry: ModelRegistry) -> Iterator[Choice]:
    state = registry.state()
    for id in (state.active, *reversed(state.history), shipped_version().id):
        if id is not None:
            try:
                entry = registry.find(id)
                yield Choice(entry, registry.folder(entry), is_pinned=False)
            except (CheckpointError, ModelNotFoundError) as error:
                log.error("active_model_lost", model=id, error=str(error))
