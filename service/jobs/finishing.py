"""The end of a job: its outputs from the chunks, then how it ended. Safe to run again at any moment."""

from collections.abc import Iterator
from typing import Any

import structlog

from service.errors import BrokerUnavailableError, ServiceError
from service.jobs.archive import JobArchive, counts_of, output_key, results_of
from service.jobs.datasets import Datasets
from service.jobs.documents import (
    Attempt,
    CaptionJob,
    Counts,
    FinetuneJob,
    ItemResult,
    Job,
    JobState,
    Outcome,
    now,
)
from service.jobs.jobs import FINISH, Jobs
from service.jobs.outputs import CAPTIONS, ERRORS, FILES, captioned, errors, json_lines, output_parts
from service.jobs.sidecars import SidecarWriter

log = structlog.stdlib.get_logger("semicap.worker")


class Finisher:
    """Ends jobs."""

    def __init__(self, jobs: Jobs, datasets: Datasets, *, max_image_bytes: int) -> None:
        self._jobs = jobs
        self._archive: JobArchive = jobs.archive
        self._datasets = datasets
        self._max_image_bytes = max_image_bytes

    def run(self, job_id: str) -> None:
        """Ends the job unless it has ended, is not ready, or another worker is at it."""
        job, attempt = self._archive.job(job_id), self._archive.attempt(job_id)
        with self._jobs.board.lease(job_id, FINISH) as lease:
            if not lease.is_held or self._archive.outcome(job_id, attempt.number) is not None:
                return
            is_canceled = self._archive.is_canceled(job_id, attempt.number)
            if not is_canceled and not self._archive.complete_chunks(job_id).issuperset(attempt.chunks):
                self._jobs.rebuild(job, attempt)  # the board said more than the store knows
                return
            self._end(job, attempt, is_canceled=is_canceled)

    def _end(self, job: Job, attempt: Attempt, *, is_canceled: bool) -> None:
        counts = counts_of(self._results(job))
        if isinstance(job, FinetuneJob):
            error = self._end_finetune(job, attempt)
        else:
            error = self._write_outputs(job, attempt) or _error(counts)
        outcome = Outcome(
            attempt=attempt.number,
            state=_state(error, is_canceled=is_canceled),
            counts=counts,
            started=self._started(job),
            finished=now(),
            error=error,
        )
        self._jobs.end(job, outcome)
        log.info("job_ended", job_id=job.id, state=outcome.state, **counts.model_dump())

    def _end_finetune(self, job: FinetuneJob, attempt: Attempt) -> str | None:
        """Why there is no version; drops the states that it took."""
        self._archive.store.delete(self._archive.store.keys(f"jobs/{job.id}/states"))
        record = self._archive.training(job.id, attempt.number)
        return record.error if record else None

    def _write_outputs(self, job: CaptionJob, attempt: Attempt) -> str | None:
        """What went wrong beside the photos; a store that fails raises."""
        store = self._archive.store
        store.write(output_key(job.id, attempt.number, CAPTIONS), json_lines(captioned(self._results(job))))
        store.write(output_key(job.id, attempt.number, ERRORS), json_lines(errors(self._results(job))))
        for kind in job.outputs:
            parts = output_parts(
                kind, captioned(self._results(job)), read_photo=lambda number: self._photo(job, number)
            )
            store.write(output_key(job.id, attempt.number, FILES[kind][0]), parts)
        return self._write_sidecars(job) if job.writes_to_folder else None

    def _write_sidecars(self, job: CaptionJob) -> str | None:
        failed, first = 0, ""
        try:
            writer = SidecarWriter(job, self._datasets.get(job.dataset))
        except OSError as error:
            return f"the folder's own record cannot be read: {error.strerror}"
        for result in self._results(job):
            try:
                if result.outcome == "captioned":
                    writer.write(result)
            except OSError as error:
                failed, first = failed + 1, first or f"{result.file_name}: {error.strerror or error}"
        return f"{failed} texts could not be written; the first: {first}" if failed else None

    def _photo(self, job: CaptionJob, number: int) -> bytes:
        dataset = self._datasets.get(job.dataset)
        ((_, item),) = self._datasets.items(dataset.id, [number])
        try:
            return self._datasets.read(dataset, item, max_bytes=self._max_image_bytes)
        except OSError as error:
            raise ServiceError(f"{item.name} was there and is gone: {error.strerror}") from error

    def _results(self, job: Job) -> Iterator[ItemResult]:
        return results_of(self._archive, job.id)

    def _started(self, job: Job) -> Any:
        try:
            return self._jobs.status(job.id).started
        except BrokerUnavailableError:
            return None


def _state(error: str | None, *, is_canceled: bool) -> JobState:
    if is_canceled:
        return "canceled"
    return "failed" if error else "succeeded"


def _error(counts: Counts) -> str | None:
    if counts.failed and not counts.done and not counts.skipped:
        return f"none of the {counts.failed} photos was captioned; errors.jsonl says why"
    return None
