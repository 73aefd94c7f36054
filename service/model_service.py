"""The models of a running API: what answers, and its change, by request here or by another replica."""

import threading
import time
from collections.abc import Callable, Mapping

import structlog

from service.errors import ModelConflictError, ModelInUseError, ModelLoadError, ModelPinnedError, ServiceError
from service.metrics import Metrics
from service.model_choice import Choice
from service.model_registry import ModelRegistry
from service.model_rules import check_gate
from service.model_versions import ModelVersion
from service.registry import load_failure
from service.serving import ModelSwitch, Serving

FOLLOW_S = 2.0
"""Between two looks at what is active; the promise is that every replica follows within 5 s."""

RETRY_S = 60.0
"""Before a version that could not be loaded is tried again without being asked."""

_STOP_S = 5.0

log = structlog.stdlib.get_logger("semicap.models")


class ModelService:
    """Changes the registry, and what answers here with it.

    Args:
        load: loads a version and starts its engine.
        is_pinned: whether SEMICAP_CHECKPOINT says what answers, whatever is active.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        switch: ModelSwitch,
        *,
        load: Callable[[Choice], Serving],
        metrics: Metrics,
        is_pinned: bool,
    ) -> None:
        self.registry = registry
        self.switch = switch
        self.is_pinned = is_pinned
        self._load = load
        self._metrics = metrics
        self._changing = threading.Lock()
        self._aliases: Mapping[str, str] = {}
        self._names: frozenset[str] = frozenset()
        self._failed: tuple[str, float] = ("", 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow_on, name="semicap-models", daemon=True)

    def start(self) -> None:
        """Follows the registry from now on."""
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(_STOP_S)

    def meant(self, wanted: str | None) -> str | None:
        """What an alias means, by the last look at the registry; any other name as it is."""
        return self._aliases.get(wanted, wanted) if wanted else wanted

    def is_known(self, wanted: str) -> bool:
        """Whether it is the id, version or name of a version, by the last look at the registry."""
        return wanted in self._names

    def versions(self) -> list[ModelVersion]:
        """Every version; a folder that SEMICAP_CHECKPOINT names among them."""
        serving, versions = self.switch.current.model.entry, self.registry.versions()
        return versions if any(one.id == serving.id for one in versions) else [serving, *versions]

    def find(self, wanted: str) -> ModelVersion:
        """As ModelRegistry.find, the model that answers among them, and first by its name."""
        model = self.switch.current.model
        if wanted in (model.id, model.name, model.version):
            return model.entry
        return self.registry.find(wanted)

    def card(self, version: ModelVersion) -> str:
        """Its model card, Markdown."""
        model = self.switch.current.model
        return model.card if version.id == model.id else self.registry.card(version)

    def aliases_of(self, version: ModelVersion) -> list[str]:
        return sorted(alias for alias, id in self._aliases.items() if id == version.id)

    def activate(self, wanted: str, *, override: bool) -> ModelVersion:
        """Lets a version answer: here when this returns, on other replicas seconds later.

        Raises:
            ServiceError: it is not there, did not pass its gate, cannot be loaded here, or SEMICAP_CHECKPOINT
                is set; what answered before still does.
        """
        self._check_not_pinned()
        version = self.registry.find(wanted)
        if not override:
            check_gate(version)
        with self._changing:
            self._change(version, agree=lambda: self.registry.activate(version.id, override=override))
        return version

    def rollback(self) -> ModelVersion:
        """Lets the version before answer; otherwise as activate."""
        self._check_not_pinned()
        with self._changing:
            version = self.registry.rollback_target()
            self._change(version, agree=self.registry.rollback)
        return version

    def set_alias(self, alias: str, wanted: str) -> ModelVersion:
        """As ModelRegistry.set_alias."""
        version = self.registry.set_alias(alias, wanted)
        self._aliases = self.registry.state().aliases
        return version

    def delete_alias(self, alias: str) -> None:
        """As ModelRegistry.delete_alias."""
        self.registry.delete_alias(alias)
        self._aliases = self.registry.state().aliases

    def delete(self, wanted: str) -> None:
        """As ModelRegistry.delete; never what answers here."""
        version = self.find(wanted)
        if version.id == self.switch.current.model.id:
            raise ModelInUseError(f"{version.id} answers here: it cannot be deleted")
        self.registry.delete(version.id)
        self.registry.sweep()

    def follow(self) -> None:
        """Looks at the registry once: names, aliases, and whether another version was activated elsewhere.

        Raises:
            ServiceError: the store does not answer, or the version cannot be loaded here.
        """
        self._aliases = self.registry.state().aliases
        self._names = frozenset(name for id in self.registry.ids() for name in (id, *id.split(":")))
        failed, until = self._failed
        if self.is_pinned or (failed and self.registry.active_id() == failed and time.monotonic() < until):
            return
        with self._changing:
            active = self.registry.active_id()
            if active != self.switch.current.model.id:
                self._change(self.registry.find(active), agree=lambda: None)

    def _change(self, version: ModelVersion, *, agree: Callable[[], object]) -> None:
        """Puts a version in the place of the one that answers, once it runs and the registry agrees."""
        if version.id == self.switch.current.model.id:
            agree()
            return
        serving = self._prepared(version)
        try:
            agree()
            if self.registry.active_id() != version.id:
                raise ModelConflictError("another version was activated at the same moment")
            self.switch.put(serving)
        except ServiceError:
            serving.engine.stop(drain_s=0)
            raise
        self._metrics.set_model(version)
        self._metrics.model_switched()
        log.info("model_switched", model=version.id)

    def _prepared(self, version: ModelVersion) -> Serving:
        """The version, loaded and warm, beside the one that answers."""
        self.switch.settle()
        began = time.monotonic()
        try:
            serving = self._load(Choice(version, self.registry.folder(version), is_pinned=False))
        except Exception as error:
            log.exception("model_not_loaded", model=version.id)
            self._metrics.model_not_loaded()
            self._failed = (version.id, time.monotonic() + RETRY_S)
            still = self.switch.current.model.id
            raise ModelLoadError(
                f"{version.id} cannot be loaded here, {still} still answers: {load_failure(error)}"
            ) from error
        self._failed = ("", 0.0)
        self._metrics.model_loaded(seconds=time.monotonic() - began)
        return serving

    def _check_not_pinned(self) -> None:
        if self.is_pinned:
            raise ModelPinnedError(
                f"SEMICAP_CHECKPOINT sets this service to {self.switch.current.model.id}; start it without "
                "that setting, then versions can be activated"
            )

    def _follow_on(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(wait_s):
            wait_s = FOLLOW_S
            try:
                self.follow()
            except ServiceError as error:
                log.warning("model_not_followed", error=error.detail)
            except Exception:
                log.exception("model_not_followed")
