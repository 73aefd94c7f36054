"""The end of a job: its outputs from the chunks, then how it ended. Safe to run again at any moment."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from service.errors import BrokerUnavailableError, PhotoLostError, StoreUnavailableError
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
    OutputKind,
    now,
)
from service.jobs.jobs import FINISH, Jobs
from service.jobs.likeness import Groups
from service.jobs.outputs import (
    CAPTIONS,
    DUPLICATES,
    ERRORS,
    FILES,
    ReadPhoto,
    captioned,
    errors,
    json_lines,
    output_parts,
)
from service.jobs.sidecars import SidecarWriter
from service.jobs.text_names import text_names_of

MOST_TRIES = 5
"""Tries after which a job ends without what cannot be made; a store that is away costs none."""

Results = Callable[[], Iterator[ItemResult]]

log = structlog.stdlib.get_logger("semicap.worker")


class Finisher:
    """Ends jobs."""

    def __init__(self, jobs: Jobs, datasets: Datasets, *, max_image_bytes: int) -> None:
        self._jobs = jobs
        self._archive: JobArchive = jobs.archive
        self._datasets = datasets
        self._text_names = text_names_of(datasets)
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
            self._try_to_end(job, attempt, is_canceled=is_canceled)

    def _try_to_end(self, job: Job, attempt: Attempt, *, is_canceled: bool) -> None:
        tries = self._begin(job.id)
        if tries > MOST_TRIES:
            died = f"{tries - 1} workers in a row ended while they wrote its files; see the workers' logs"
            self._give_up(job, attempt, died, is_canceled=is_canceled)
            return
        try:
            self._end(job, attempt, is_canceled=is_canceled, is_last_try=tries == MOST_TRIES)
        except Exception as error:
            is_away = isinstance(error, (StoreUnavailableError, BrokerUnavailableError))
            if is_away and not is_canceled:
                self._set_tries(job.id, tries - 1)
                raise
            if tries < MOST_TRIES:
                raise
            log.exception("job_given_up", job_id=job.id)
            self._give_up(job, attempt, _not_made("its files", error), is_canceled=is_canceled)

    def _give_up(self, job: Job, attempt: Attempt, why: str, *, is_canceled: bool) -> None:
        """Ends the job with what the board says of it."""
        status = self._jobs.status(job.id)
        outcome = Outcome(
            attempt=attempt.number,
            state=_state(why, is_canceled=is_canceled),
            counts=status.counts,
            started=status.started,
            ended=now(),
            error=why,
        )
        self._jobs.end(job, outcome)
        log.info("job_ended", job_id=job.id, state=outcome.state, error=why)

    def _begin(self, job_id: str) -> int:
        try:
            return self._jobs.board.begin(job_id, FINISH)
        except BrokerUnavailableError:
            return 1

    def _set_tries(self, job_id: str, tries: int) -> None:
        with suppress(BrokerUnavailableError):
            self._jobs.board.set_tries(job_id, FINISH, tries)

    def _end(self, job: Job, attempt: Attempt, *, is_canceled: bool, is_last_try: bool) -> None:
        if isinstance(job, FinetuneJob):
            counts = counts_of(results_of(self._archive, job.id))
            error = self._end_finetune(job, attempt)
        else:
            results = self._results(job, attempt)
            counts = counts_of(results())
            written = self._write_outputs(job, attempt, results, is_last_try=is_last_try)
            error = written or _error(counts)
        outcome = Outcome(
            attempt=attempt.number,
            state=_state(error, is_canceled=is_canceled),
            counts=counts,
            started=self._started(job),
            ended=now(),
            error=error,
        )
        self._jobs.end(job, outcome)
        log.info("job_ended", job_id=job.id, state=outcome.state, **counts.model_dump())

    def _end_finetune(self, job: FinetuneJob, attempt: Attempt) -> str | None:
        """Why there is no version; drops the states that it took."""
        self._archive.store.delete(self._archive.store.keys(f"jobs/{job.id}/states"))
        record = self._archive.training(job.id, attempt.number)
        return record.error if record else None

    def _results(self, job: CaptionJob, attempt: Attempt) -> Results:
        """What gives all results, any number of times; near-duplicates are found and written down."""
        if job.duplicates == "ignore":
            return lambda: results_of(self._archive, job.id)
        groups = Groups(results_of(self._archive, job.id), similarity=job.duplicate_similarity)
        self._archive.store.write(output_key(job.id, attempt.number, DUPLICATES), json_lines(groups.rows()))
        if job.duplicates == "report":
            return lambda: results_of(self._archive, job.id)
        return lambda: groups.apply(results_of(self._archive, job.id))

    def _write_outputs(
        self, job: CaptionJob, attempt: Attempt, results: Results, *, is_last_try: bool
    ) -> str | None:
        """What went wrong beside the photos; a store that fails raises."""
        store, gone = self._archive.store, list[str]()

        def photo(number: int) -> bytes | None:
            data = self._photo(job, number)
            if isinstance(data, str):
                gone.append(data)
                return None
            return data

        store.write(output_key(job.id, attempt.number, CAPTIONS), json_lines(captioned(results())))
        store.write(output_key(job.id, attempt.number, ERRORS), json_lines(errors(results())))
        problems = list[str | None]()
        for kind in job.outputs:
            try:
                self._write_output(job, attempt, kind, results, read_photo=photo)
            except StoreUnavailableError:
                raise
            except Exception as error:
                if not is_last_try:
                    raise
                log.exception("output_not_made", job_id=job.id, output=kind)
                problems.append(_not_made(FILES[kind][0], error))
        if gone:
            problems.append(f"{FILES['webdataset'][0]} lacks {len(gone)} photos; the first: {gone[0]}")
        if job.writes_to_folder:
            problems.append(self._write_sidecars(job, results))
        return "; ".join(problem for problem in problems if problem) or None

    def _write_output(
        self,
        job: CaptionJob,
        attempt: Attempt,
        kind: OutputKind,
        results: Results,
        *,
        read_photo: ReadPhoto,
    ) -> None:
        names = partial(self._text_names, job.dataset)
        parts = output_parts(kind, captioned(results()), read_photo=read_photo, text_names=names)
        self._archive.store.write(output_key(job.id, attempt.number, FILES[kind][0]), parts)

    def _write_sidecars(self, job: CaptionJob, results: Results) -> str | None:
        failed, first = 0, ""
        try:
            dataset = self._datasets.get(job.dataset)
            writer = SidecarWriter(job, dataset, self._text_names(dataset.id))
        except OSError as error:
            return f"the folder's own record cannot be read: {error.strerror}"
        for result in results():
            try:
                if result.outcome == "captioned":
                    writer.write(result)
            except OSError as error:
                failed, first = failed + 1, first or f"{result.file_name}: {error.strerror or error}"
        return f"{failed} texts could not be written; the first: {first}" if failed else None

    def _photo(self, job: CaptionJob, number: int) -> bytes | str:
        """The photo, or why it cannot be had any more."""
        dataset = self._datasets.get(job.dataset)
        ((_, item),) = self._datasets.items(dataset.id, [number])
        try:
            return self._datasets.read(dataset, item, max_bytes=self._max_image_bytes)
        except (OSError, PhotoLostError) as error:
            return f"{item.name}: {getattr(error, 'strerror', None) or error}"

    def _started(self, job: Job) -> Any:
        try:
            return self._jobs.status(job.id).started
        except BrokerUnavailableError:
            return None


def _not_made(what: str, error: Exception) -> str:
    return f"{what} could not be made ({type(error).__name__}); see the workers' logs"


def _state(error: str | None, *, is_canceled: bool) -> JobState:
    if is_canceled:
        return "canceled"
    return "failed" if error else "succeeded"


def _error(counts: Counts) -> str | None:
    if counts.failed and not counts.done and not counts.skipped:
        return f"none of the {counts.failed} photos was captioned; errors.jsonl says why"
    return None
