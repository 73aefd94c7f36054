"""The model in a worker's engine: one version at a time, the one that the job in hand names."""

from collections.abc import Callable

import structlog

from models.checkpoint import CheckpointError
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.errors import ModelNotFoundError, ModelUnavailableError
from service.model_choice import Choice
from service.model_registry import ModelRegistry
from service.registry import DeviceError, ServedModel
from service.serving import Loaded

log = structlog.stdlib.get_logger("semicap.worker")


class WorkerModels:
    """Loads another version between two chunks, when the next one needs it.

    Args:
        first: what the worker has begun with.
        start: starts an engine for a model, like the one before where that is of the same kind.
        is_pinned: whether SEMICAP_CHECKPOINT says what jobs without a model get.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        first: Loaded,
        *,
        start: Callable[[ServedModel, Loaded], Engine],
        device: str,
        is_pinned: bool,
    ) -> None:
        self._registry = registry
        self._loaded = first
        self._default = first.model.entry
        self._start = start
        self._device = device
        self._is_pinned = is_pinned

    def serve(self, wanted: str | None) -> Loaded:
        """The version of a job; it stays loaded until another one is wanted.

        Args:
            wanted: its id; None means the active version, or the one that the worker is pinned to.

        Raises:
            ModelUnavailableError: it is not there, or cannot be loaded here.
        """
        try:
            wanted = wanted or (self._default.id if self._is_pinned else self._registry.active_id())
            if wanted != self._loaded.model.id:
                self._load(wanted)
        except (ModelNotFoundError, CheckpointError, DeviceError, EngineError) as error:
            raise ModelUnavailableError(f"the worker has no model {wanted}: {error}") from error
        return self._loaded

    def stop(self) -> None:
        self._loaded.engine.stop(drain_s=0)

    def _load(self, wanted: str) -> None:
        entry = self._registry.find(wanted)
        model = Choice(entry, self._registry.folder(entry), is_pinned=False).load(device=self._device)
        before, self._loaded = self._loaded, Loaded(model, self._start(model, self._loaded))
        before.engine.stop(drain_s=0)
        log.info("model_switched", model=entry.id)
