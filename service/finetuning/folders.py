"""The folders of the runs on a worker's disk: one run at a time in each, none left of jobs that are over."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import JobNotFoundError
from service.finetuning.task import RunFolder
from service.jobs.archive import JobArchive

_LOCKS = ".locks"


class RunFolders:
    """The folders below a root, which need not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(self, job_id: str, attempt: int) -> Iterator[RunFolder | None]:
        """The folder of an attempt; None while another process of this machine is in it."""
        name = f"{job_id}.{attempt}"
        locks = self._root / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            folder = RunFolder(self._root / name)
            folder.root.mkdir(mode=0o700, exist_ok=True)
            yield folder
            if not folder.root.exists():
                (locks / name).unlink()

    def drop_ended(self, archive: JobArchive) -> None:
        """Deletes folders that workers left whose job another one has ended, or canceled, since."""
        for path in self._root.glob("*.*"):
            job_id, _, attempt = path.name.rpartition(".")
            if path.is_dir() and job_id and self._is_over(archive, job_id, attempt):
                shutil.rmtree(path, ignore_errors=True)
                (self._root / _LOCKS / path.name).unlink(missing_ok=True)

    def _is_over(self, archive: JobArchive, job_id: str, attempt: str) -> bool:
        try:
            archive.job(job_id)
        except JobNotFoundError:
            return True
        return archive.outcome(job_id, int(attempt)) is not None
