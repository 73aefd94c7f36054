"""Webhooks that are still to be delivered: one mark in the store for each, named by when it is due."""

from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from service.jobs.documents import now
from service.jobs.store import ArtifactStore

_FOLDER = "deliveries"


@dataclass(frozen=True)
class Mark:
    """That a job's webhook is to be looked at from a time on, in milliseconds since 1970."""

    due_ms: int
    job_id: str

    @property
    def key(self) -> str:
        return f"{_FOLDER}/{self.due_ms:013d}-{self.job_id}"


class Deliveries:
    """The marks of a store. How far each delivery is stands with its job."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def add(self, job_id: str, due: datetime) -> None:
        self._store.put(_mark(job_id, due).key, b"")

    def drop(self, mark: Mark) -> None:
        self._store.delete([mark.key])

    def put_off(self, mark: Mark, due: datetime) -> None:
        """At no moment without a mark."""
        later = _mark(mark.job_id, due)
        if later != mark:
            self._store.put(later.key, b"")
            self.drop(mark)

    def due(self, *, most: int) -> list[Mark]:
        """Those that are due, the oldest first."""
        end = now()
        return list(islice((mark for mark in self._all() if mark.due_ms <= _ms(end)), most))

    def job_ids(self) -> set[str]:
        return {mark.job_id for mark in self._all()}

    def _all(self) -> list[Mark]:
        names = (key.rpartition("/")[2].partition("-") for key in self._store.keys(_FOLDER))
        return [Mark(int(due_ms), job_id) for due_ms, _, job_id in names]


def _mark(job_id: str, due: datetime) -> Mark:
    return Mark(_ms(due), job_id)


def _ms(when: datetime) -> int:
    return int(1000 * when.timestamp())
