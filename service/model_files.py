"""Checkpoint folders in the artifact store: uploaded file by file, fetched whole and checked."""

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from models.manifest import CheckpointError
from service.jobs.documents import made_at
from service.jobs.store import ArtifactStore
from service.model_versions import ModelVersion, StoredFile

CONTENT = "models/content"
"""A folder for each publication, so that two of them, or one and a deletion, never share a file."""

ABANDONED_S = 24 * 3600.0
"""Age at which content that belongs to no version is that of a killed process."""

_PIECE_BYTES = 1024 * 1024


class ModelFiles:
    """The files of versions, in a store and on this machine.

    Args:
        cache: folder for what is fetched from a bucket; a store that is a folder is read where it is.
    """

    def __init__(self, store: ArtifactStore, cache: Path) -> None:
        self._store = store
        self._cache = cache
        self._checked: set[str] = set()

    def upload(self, folder: Path, version: ModelVersion) -> ModelVersion:
        """Writes every file of a checkpoint folder to the version's place; the version with their names."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [self._upload(path, path.relative_to(folder).as_posix(), version) for path in paths]
        return version.model_copy(update={"files": tuple(files)})

    def folder(self, version: ModelVersion) -> Path:
        """The version's checkpoint folder on this machine.

        Raises:
            CheckpointError: the store has lost or damaged a file.
        """
        here = self._store.path(f"{version.place}/checkpoint")
        if here is None:
            return self._fetched(version)
        if version.place not in self._checked:
            for file in version.files:
                _check(here / file.path, file, version)
            self._checked.add(version.place)
        return here

    def read(self, version: ModelVersion, name: str) -> bytes | None:
        """One of the version's files."""
        return self._store.get(f"{version.place}/{name}") if version.place else None

    def scratch(self) -> Path:
        """A new folder beside the cache; the caller removes it."""
        self._cache.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".", dir=self._cache))

    def forget(self, version: ModelVersion) -> None:
        """Removes the version's files from the store and from this machine."""
        self._store.delete(self._store.keys(version.place))
        shutil.rmtree(self._cached(version), ignore_errors=True)

    def sweep(self, *, keep: Collection[str]) -> None:
        """Removes content that is a day old and belongs to none of the places to keep."""
        for name in self._store.folders(CONTENT):
            place = f"{CONTENT}/{name}"
            if place not in keep and time.time() - made_at(name) > ABANDONED_S:
                self._store.delete(self._store.keys(place))

    def _upload(self, path: Path, name: str, version: ModelVersion) -> StoredFile:
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
                    yield piece

        num_bytes = self._store.write(f"{version.place}/checkpoint/{name}", pieces())
        return StoredFile(path=name, sha256=digest.hexdigest(), num_bytes=num_bytes)

    def _fetched(self, version: ModelVersion) -> Path:
        folder = self._cached(version)
        if folder.is_dir():
            return folder
        scratch = self.scratch()
        try:
            for file in version.files:
                path = scratch / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    target.writelines(self._store.stream(f"{version.place}/checkpoint/{file.path}") or ())
                _check(path, file, version)
            with contextlib.suppress(OSError):  # another process was faster
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _cached(self, version: ModelVersion) -> Path:
        return self._cache / version.place.rpartition("/")[2]


def _check(path: Path, file: StoredFile, version: ModelVersion) -> None:
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"the artifact store has lost {file.path} of {version.id}") from error
    if digest != file.sha256:
        raise CheckpointError(
            f"{file.path} of {version.id} is damaged in the artifact store; publish it again"
        )
