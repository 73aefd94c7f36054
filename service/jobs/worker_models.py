"""The model in a worker's engine: one version at a time, the one that the job in hand names."""

from collections.abc import Callable

import structlog

from models.manifest import CheckpointError
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.errors import ModelNotFoundError, ModelUnavailableError
from service.model_choice import Choice
from service.model_registry import ModelRegistry
from service.registry import DeviceError, ServedModel, load_failure
from service.serving import Loaded

log = structlog.stdlib.get_logger("semicap.worker")


class WorkerModels:
    """Loads another version between two chunks, when the next one needs it.

    Args:
        default: what the worker has begun with, which jobs without a model get where it is pinned to that.
        first: the same, loaded.
        start: starts an engine for a model, like the one before where that is of the same kind.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        default: Choice,
        first: Loaded,
        start: Callable[[ServedModel, Loaded], Engine],
        device: str,
    ) -> None:
        self._registry = registry
        self._loaded = first
        self._default = default
        self._start = start
        self._device = device

    def serve(self, wanted: str | None) -> Loaded:
        """The version of a job; it stays loaded until another one is wanted.

        Args:
            wanted: its id; None means the active version, or the one that the worker is pinned to.

        Raises:
            ModelUnavailableError: it is not there, or cannot be loaded here.
        """
        try:
            wanted = wanted or self._id_of_default()
            if wanted != self._loaded.model.id:
                self._load(wanted)
        except ModelNotFoundError as error:
            raise ModelUnavailableError(f"the worker has no model {wanted}: {error}") from error
        except (CheckpointError, DeviceError, EngineError) as error:
            log.warning("model_not_loaded", model=wanted, error=str(error))
            raise ModelUnavailableError(
                f"the worker cannot load model {wanted}: {load_failure(error)}"
            ) from error
        return self._loaded

    def stop(self) -> None:
        self._loaded.engine.stop(drain_s=0)

    def _id_of_default(self) -> str:
        return self._default.entry.id if self._default.is_pinned else self._registry.active_id()

    def _load(self, wanted: str) -> None:
        choice = self._default  # a folder that the worker is pinned to is in no registry
        if wanted != choice.entry.id:
            entry = self._registry.find(wanted)
            choice = Choice(entry, self._registry.folder(entry), is_pinned=False)
        model = choice.load(device=self._device)
        before, self._loaded = self._loaded, Loaded(model, self._start(model, self._loaded))
        before.engine.stop(drain_s=0)
        log.info("model_switched", model=model.id)
