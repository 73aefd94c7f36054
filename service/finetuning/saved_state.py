"""A training state in the artifact store: another worker goes on from it when this one's disk is gone."""

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from service.finetuning.task import RunFolder
from service.jobs.store import ArtifactStore
from service.jobs.tar_stream import tar_of

_STATES, _RESULT, _LOG, _DATA = "states", "model", "log.jsonl", "data.json"


class SavedStates:
    """The states of one attempt of a job; only the last one is kept."""

    def __init__(self, store: ArtifactStore, job_id: str, attempt: int) -> None:
        self._store = store
        self._prefix = f"jobs/{job_id}/states/{attempt:04d}"

    def keep(self, folder: RunFolder) -> int | None:
        """Stores the newest state that lies in a run's folder, unless it is stored; its step."""
        step = local_step(folder)
        if step is None or step <= (self.step() or -1):
            return step
        older = self._store.keys(self._prefix)
        self._store.write(f"{self._prefix}/{step:08d}.tar", tar_of(_files(folder.training, step)))
        self._store.delete(older)
        return step

    def step(self) -> int | None:
        """Of the newest stored state."""
        keys = self._store.keys(self._prefix)
        return int(keys[-1].rpartition("/")[2].partition(".")[0]) if keys else None

    def bring(self, folder: RunFolder) -> None:
        """Puts the stored state into a run's folder that has none as new."""
        keys = self._store.keys(self._prefix)
        if not keys or (local_step(folder) or -1) >= (self.step() or 0):
            return
        pieces = self._store.stream(keys[-1])
        if pieces is None:
            return
        scratch = folder.root / "arriving"
        shutil.rmtree(scratch, ignore_errors=True)
        with tarfile.open(fileobj=_Pieces(pieces), mode="r|") as archive:
            archive.extractall(scratch, filter="data")
        shutil.rmtree(folder.training, ignore_errors=True)
        scratch.rename(folder.training)

    def drop(self) -> None:
        """Deletes what is stored."""
        self._store.delete(self._store.keys(self._prefix))


def local_step(folder: RunFolder) -> int | None:
    """Step of the newest whole state in a run's folder."""
    states = sorted((folder.training / _STATES).glob("step-*"))
    return int(states[-1].name.partition("-")[2]) if states else None


def _files(training: Path, step: int) -> Iterator[tuple[str, bytes]]:
    state = training / _STATES / f"step-{step:08d}"
    paths = [*state.iterdir(), training / _LOG, training / _DATA, *(training / _RESULT).rglob("*")]
    for path in paths:
        if path.is_file():
            yield path.relative_to(training).as_posix(), path.read_bytes()


class _Pieces(io.RawIOBase):
    """Pieces of bytes as the file that tarfile reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._left += bytes(piece)
        size = len(self._left) if size < 0 else size
        taken, self._left = self._left[:size], self._left[size:]
        return taken
