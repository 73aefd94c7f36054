"""The registry of model versions: in the artifact store, safe to change from several processes at once."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from models.manifest import CARD_FILE, DEFAULT_CHECKPOINT, Manifest
from service import model_rules as rules
from service.errors import ModelConflictError, ModelNotFoundError
from service.jobs.documents import new_id, now
from service.jobs.store import ArtifactStore
from service.model_files import CONTENT, ModelFiles
from service.model_state import StateSeries
from service.model_versions import Activation, ModelVersion, Origin, RegistryState, version_of
from service.settings import Settings

_VERSIONS = "models/versions"
"""A version is here when its document is: it is written last and removed first."""


@cache
def shipped_version() -> ModelVersion:
    """The model that comes along; it is in every registry and in no store."""
    return version_of(DEFAULT_CHECKPOINT, origin="shipped")


def nothing_used() -> Mapping[str, str]:
    """What uses versions where nobody does."""
    return {}


class ModelRegistry:
    """The versions of a store, which of them is active, and their aliases.

    Args:
        cache: folder on this machine for what is fetched from a bucket.
        used: what besides the registry uses versions, in words, by id: those are not deleted.
    """

    def __init__(
        self, store: ArtifactStore, cache: Path, *, used: Callable[[], Mapping[str, str]] = nothing_used
    ) -> None:
        self._store = store
        self._files = ModelFiles(store, cache)
        self._states = StateSeries(store)
        self._used = used

    @classmethod
    def reading(cls, settings: Settings) -> Self:
        """The registry for who only reads, and should leave no folder behind."""
        return cls(ArtifactStore.reading(settings.store_location), settings.model_cache)

    # versions

    def versions(self) -> list[ModelVersion]:
        """Every version, by name, the newest of a name first."""
        stored = [found for key in self._store.keys(_VERSIONS) if (found := self._read(key))]
        deleting = self.state().deleting
        known = [shipped_version(), *(one for one in stored if one.id not in deleting)]
        newest_first = sorted(known, key=lambda one: one.created, reverse=True)
        return sorted(newest_first, key=lambda one: one.name)

    def ids(self) -> list[str]:
        """Ids of all versions, for no more than a look at the store's keys."""
        names = [key.removesuffix(".json").split("/")[-2:] for key in self._store.keys(_VERSIONS)]
        return [shipped_version().id, *(":".join(parts) for parts in names)]

    def find(self, wanted: str) -> ModelVersion:
        """The version of an id (name:version), an alias, a version, or a name (its newest).

        Raises:
            ModelNotFoundError: there is none; the message says which there are.
        """
        asked = wanted.replace("/", ":", 1)
        meant = self.state().aliases.get(asked, asked)
        versions = self.versions()
        for one in versions:
            if meant in (one.id, one.version, one.name):
                return one
        known = ", ".join(one.id for one in versions)
        raise ModelNotFoundError(f"there is no model {wanted[:130]!r}; there are: {known}")

    def folder(self, version: ModelVersion) -> Path:
        """Its checkpoint folder on this machine, fetched and checked where it has to be.

        Raises:
            CheckpointError: the store has lost or damaged a file.
        """
        return DEFAULT_CHECKPOINT if version.origin == "shipped" else self._files.folder(version)

    def card(self, version: ModelVersion) -> str:
        """Its model card, Markdown."""
        if version.origin == "shipped":
            return (DEFAULT_CHECKPOINT / CARD_FILE).read_text(encoding="utf-8")
        return (self._files.read(version, f"checkpoint/{CARD_FILE}") or b"").decode(errors="replace")

    def report(self, version: ModelVersion) -> bytes | None:
        """Its report as JSON, where there is one."""
        return self._files.read(version, "report.json")

    def report_html(self, version: ModelVersion) -> bytes | None:
        """Its report as a page, where there is one."""
        return self._files.read(version, "report.html")

    def publish(
        self,
        folder: Path,
        *,
        origin: Origin,
        job: str | None = None,
        report: Mapping[str, Any] | None = None,
        report_html: bytes | None = None,
        gate: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Takes a checkpoint folder in, whole or not at all; a version that is here already stays as it is.

        Args:
            report: what was measured of it, JSON values; report_html shows the same.
            gate: as ModelVersion.

        Raises:
            CheckpointError, ClipError: the folder is not a whole checkpoint.
            InvalidModelNameError: its name cannot be one here.
            ModelConflictError: its id is here with another CLIP, or is being deleted.
        """
        version = version_of(
            folder,
            origin=origin,
            created=now(),
            job=job,
            gate=gate,
            has_report=report is not None,
            place=f"{CONTENT}/{new_id('content')}",
        )
        rules.check_name(version.name)
        if (here := self._same_as(version)) is not None:
            return here
        whole = self._files.upload(folder, version)
        if report is not None:
            self._store.put(f"{version.place}/report.json", json.dumps(report).encode())
        if report_html is not None:
            self._store.put(f"{version.place}/report.html", report_html)
        if self._store.create(_key(version.id), whole.to_bytes()):
            return whole
        self._files.forget(whole)
        if (here := self._same_as(version)) is not None:
            return here
        raise ModelConflictError(f"{version.id} is being deleted at this moment; try again")

    def add(
        self, name: str, write: Callable[[Path], Manifest], *, origin: Origin = "imported"
    ) -> ModelVersion:
        """Publishes what `write` writes into the folder it is given: a checkpoint of that name.

        Raises:
            InvalidModelNameError: before anything is written.
            ModelConflictError: this version is here already.
        """
        rules.check_name(name)
        scratch = self._files.scratch()
        try:
            id = f"{name}:{write(scratch / 'checkpoint').version}"
            if any(id == one.id for one in self.versions()):
                raise ModelConflictError(f"{id} is here already; semicap models delete {id} removes it")
            return self.publish(scratch / "checkpoint", origin=origin)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def delete(self, wanted: str) -> ModelVersion:
        """Removes a version and all that belongs to it.

        Raises:
            ModelNotFoundError: there is none.
            ModelInUseError: it is active, an alias's, a job's, or the parent of one that is.
        """
        version, versions, used = self.find(wanted), self.versions(), self._used()
        self._states.change(
            lambda state: rules.marked_for_deletion(state, version, versions=versions, used=used)
        )
        self._remove(version.id)
        return version

    def sweep(self) -> None:
        """Ends deletions that were cut short and removes what killed publications left a day ago."""
        for id in self.state().deleting:
            self._remove(id)
        stored = [self._read(key) for key in self._store.keys(_VERSIONS)]
        self._files.sweep(keep={version.place for version in stored if version})

    # which one answers

    def state(self) -> RegistryState:
        """Active version, history and aliases as they are now."""
        return self._states.read()

    def active(self) -> Activation | None:
        """What was activated last; None while nothing was, and the model that comes along answers."""
        return _activation(self.state())

    def active_id(self) -> str:
        """Id of the version that shall answer."""
        return self.state().active or shipped_version().id

    def activate(self, wanted: str, *, override: bool = False) -> Activation:
        """Makes a version the one that answers; the one before is what a rollback goes back to.

        Raises:
            ModelNotFoundError: there is none.
            ModelGateError: it did not pass its gate; `override` does not ask.
        """
        version = self.find(wanted)
        if not override:
            rules.check_gate(version)
        shipped = shipped_version().id
        state = self._states.change(lambda state: rules.activated(state, version, shipped=shipped))
        return _activation(state) or Activation(model=shipped, number=state.number, changed=state.changed)

    def rollback_target(self) -> ModelVersion:
        """The version that a rollback would activate; raises NoEarlierModelError."""
        versions = self._by_id()
        return versions[rules.rolled_back(self.state(), versions).active or ""]

    def rollback(self) -> Activation:
        """Activates what was active before, one step further back each time.

        Raises:
            NoEarlierModelError: nothing is left of what was active before.
        """
        versions = self._by_id()
        state = self._states.change(lambda state: rules.rolled_back(state, versions))
        return Activation(model=state.active or "", number=state.number, changed=state.changed)

    def set_alias(self, alias: str, wanted: str) -> ModelVersion:
        """Lets an alias mean a version from now on.

        Raises:
            InvalidModelNameError: not a name for an alias, or it means something already.
            ModelNotFoundError: there is no such version.
        """
        rules.check_alias(alias, self.versions())
        version = self.find(wanted)
        self._states.change(lambda state: rules.with_alias(state, alias, version))
        return version

    def delete_alias(self, alias: str) -> None:
        """Raises ModelNotFoundError: there is none."""
        self._states.change(lambda state: rules.without_alias(state, alias))

    def _by_id(self) -> dict[str, ModelVersion]:
        return {one.id: one for one in self.versions()}

    def _read(self, key: str) -> ModelVersion | None:
        found = self._store.get(key)
        return None if found is None else ModelVersion.model_validate_json(found)

    def _same_as(self, version: ModelVersion) -> ModelVersion | None:
        """The version of this id that is here whole."""
        if version.id == shipped_version().id:
            return shipped_version()
        here = self._read(_key(version.id))
        if here is None:
            return None
        if here.id in self.state().deleting:
            self._remove(here.id)
            return None
        if here.scorer != version.scorer:
            raise ModelConflictError(
                f"{here.id} is here with another CLIP, {here.scorer}; delete it, or name this one otherwise"
            )
        return here

    def _remove(self, id: str) -> None:
        version = self._read(_key(id))
        self._store.delete([_key(id)])
        if version is not None:
            self._files.forget(version)
        self._states.change(lambda state: rules.not_deleting(state, id))


def _activation(state: RegistryState) -> Activation | None:
    if state.active is None:
        return None
    return Activation(model=state.active, number=state.number, changed=state.changed)


def _key(id: str) -> str:
    name, _, version = id.partition(":")
    return f"{_VERSIONS}/{name}/{version}.json"
