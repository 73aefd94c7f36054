"""What need not be kept any longer: outputs, jobs and datasets beyond the operator's limits of age."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog

from service.errors import DatasetNotFoundError, JobNotFoundError
from service.jobs.archive import JobArchive
from service.jobs.datasets import YOUNG, Datasets
from service.jobs.deliveries import Deliveries
from service.jobs.documents import now

UPLOAD_GRACE = YOUNG + timedelta(hours=24)
"""A photo without a dataset is deleted at this age: an upload that it came with has ended or failed."""

_IN_USE = datetime.max.replace(tzinfo=UTC)
_DATASET_ID = re.compile(rb'"(ds-[0-9a-f]+)"')

log = structlog.stdlib.get_logger("semicap.retention")


@dataclass(frozen=True)
class Keep:
    """How long things are kept, jobs and outputs from the job's end; None is for ever."""

    outputs: timedelta | None = None
    jobs: timedelta | None = None
    datasets: timedelta | None = None


class Retention:
    """Deletes from the store; what a job that is not over needs stays, whatever its age."""

    def __init__(self, archive: JobArchive, datasets: Datasets, keep: Keep) -> None:
        self._archive = archive
        self._store = archive.store
        self._datasets = datasets
        self._keep = keep

    def sweep(self) -> list[str]:
        """Deletes what is too old, and what failed uploads and killed writers left; the names, logged too."""
        if count := self._store.drop_unfinished(UPLOAD_GRACE):
            log.info("deleted", what="unfinished files", objects=count)
        if self._keep == Keep():
            return self._sweep_datasets({})
        active = set(self._archive.active()) | Deliveries(self._store).job_ids()
        ended = {
            job_id: finished
            for job_id in self._archive.ids()
            if job_id not in active and (finished := self._finished(job_id))
        }
        uses = self._last_uses(ended)
        deleted = [job_id for job_id, finished in ended.items() if _is_past(finished, self._keep.jobs)]
        for job_id in deleted:
            self._delete("job", job_id, [f"jobs/{job_id}"])
        for job_id, finished in ended.items():
            if job_id not in deleted and _is_past(finished, self._keep.outputs):
                deleted += self._delete("outputs", f"{job_id}/outputs", [f"jobs/{job_id}/outputs"])
        return deleted + self._sweep_datasets(uses)

    def _finished(self, job_id: str) -> datetime | None:
        try:
            outcome = self._archive.outcome(job_id, self._archive.attempt(job_id).number)
        except JobNotFoundError:
            return None
        return outcome.ended if outcome else None

    def _last_uses(self, ended: dict[str, datetime]) -> dict[str, datetime]:
        """When the last job on each dataset ended; one that is not over has it in use.

        Every kind of job is looked through for ids of datasets: one that is overlooked costs photos.
        """
        uses: dict[str, datetime] = {}
        for job_id in self._archive.ids():
            manifest = self._store.get(f"jobs/{job_id}/job.json") or b""
            for found in _DATASET_ID.findall(manifest):
                dataset_id, used = found.decode(), ended.get(job_id, _IN_USE)
                uses[dataset_id] = max(used, uses.get(dataset_id, used))
        return uses

    def _sweep_datasets(self, uses: dict[str, datetime]) -> list[str]:
        old = [one for one in self._datasets.ids() if self._is_old(one, uses.get(one))]
        for dataset_id in old:
            self._delete("dataset", dataset_id, [f"datasets/{dataset_id}"])
        self._delete_lonely_photos()
        return old

    def _is_old(self, dataset_id: str, used: datetime | None) -> bool:
        try:
            created = self._datasets.get(dataset_id).created
        except DatasetNotFoundError:  # its upload runs, or has failed
            written = [self._store.modified(key) for key in self._store.keys(f"datasets/{dataset_id}")]
            return all(_is_past(when, UPLOAD_GRACE) for when in written)
        return _is_past(max(created, used or created), self._keep.datasets)

    def _delete_lonely_photos(self) -> None:
        """Those that no dataset has, from failed uploads too; of a digest 8 bytes are kept in mind."""
        known = np.unique(
            np.fromiter(
                (_short(sha256) for one in self._datasets.ids() for sha256 in self._datasets.photos(one)),
                dtype=np.uint64,
            )
        )
        count = 0
        for folder in self._store.folders("images"):
            keys = self._store.keys(f"images/{folder}")
            short = np.array([_short(key.rpartition("/")[2]) for key in keys], dtype=np.uint64)
            lonely = [
                key
                for key, is_known in zip(keys, np.isin(short, known), strict=True)
                if not is_known and _is_past(self._store.modified(key), UPLOAD_GRACE)
            ]
            self._store.delete(lonely)
            count += len(lonely)
        if count:
            log.info("deleted", what="photos", objects=count)

    def _delete(self, what: str, name: str, prefixes: Iterable[str]) -> list[str]:
        keys = [key for prefix in prefixes for key in self._store.keys(prefix)]
        if not keys:
            return []
        self._store.delete(sorted(keys, key=_manifests_last))
        log.info("deleted", what=what, id=name, objects=len(keys))
        return [name]


def _manifests_last(key: str) -> tuple[bool, str]:
    """A sweep that is cut short leaves what the next one still finds."""
    return key.endswith(("/job.json", "/dataset.json")) or "/attempts/" in key or "/outcome-" in key, key


def _short(sha256: str) -> int:
    return int(sha256[:16], 16)


def _is_past(when: datetime | None, kept: timedelta | None) -> bool:
    return when is not None and kept is not None and now() - when > kept
