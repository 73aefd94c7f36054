"""A worker's unit of work: one chunk of a job, saved as it goes, the same however often it is run."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar
from uuid import uuid4

import structlog

from service.errors import BrokerUnavailableError, StoreUnavailableError, WorkerLostError
from service.jobs.archive import counts_of
from service.jobs.board import Board
from service.jobs.datasets import Datasets
from service.jobs.documents import Attempt, CaptionJob, Dataset, Item, ItemResult, Stop
from service.jobs.failures import failed_result
from service.jobs.jobs import Jobs
from service.jobs.likeness import ChunkLikeness, Vector
from service.jobs.sidecars import settled_beside
from service.jobs.text_names import text_names_of
from service.metrics import Metrics

CHECK_S = 0.5
"""Seconds between two looks at whether the job was canceled or paused."""

CAREFUL_AFTER = 3
"""Tries without a result after which photos are done one by one, each saved before the next is begun."""

GIVE_UP_AFTER = 6
"""Tries without a result after which the photo that is next is given up: it kills whoever takes it."""

Ending = Literal["complete", "canceled", "paused", "given back"]

Embeddings = Callable[[int, Vector], bool]

T = TypeVar("T")

log = structlog.stdlib.get_logger("semicap.worker")


@dataclass(frozen=True)
class ChunkLimits:
    """How long a worker stays with a chunk, and how often it saves, in seconds."""

    chunk_s: float
    save_s: float


class Captions(Protocol):
    """What captions items: service.jobs.captioner with an engine, or a test's own."""

    def caption(
        self,
        dataset: Dataset,
        items: Iterator[tuple[int, Item]],
        options: dict[str, Any],
        *,
        embeddings: Embeddings | None = None,
    ) -> Generator[ItemResult, None, None]:
        """A result for each item as it is ready; closing it gives up what is in flight.

        Args:
            embeddings: where the results shall have embeddings; it says which items need captions too.
        """


class ChunkRunner:
    """Does chunks for a worker.

    Args:
        is_stopping: whether the worker shall give back what it has.
    """

    def __init__(
        self,
        captioner: Captions,
        *,
        datasets: Datasets,
        jobs: Jobs,
        limits: ChunkLimits,
        metrics: Metrics,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.captioner = captioner
        self.archive = jobs.archive
        self.datasets = datasets
        self.text_names = text_names_of(datasets)
        self.jobs = jobs
        self.limits = limits
        self.metrics = metrics
        self.is_stopping = is_stopping

    def run(self, job_id: str, chunk: int) -> None:
        """Captions what the chunk still lacks; returns at once when another worker has it or it is over."""
        job, attempt = self.archive.captioning(job_id), self.archive.attempt(job_id)
        is_over = self.archive.outcome(job_id, attempt.number) is not None
        if is_over or chunk not in attempt.chunks:
            return
        board = self.jobs.board
        with board.lease(job_id, chunk) as lease:
            if not lease.is_held:
                return
            began = time.monotonic()
            self._advance(job_id)
            ending = _ChunkRun(self, job, attempt, chunk).run()
            self.metrics.chunk_done(ending=ending, seconds=time.monotonic() - began)
        log.info(
            "chunk", job_id=job_id, chunk=chunk, ending=ending, seconds=round(time.monotonic() - began, 2)
        )
        self._advance(job_id, again=[chunk] if ending == "given back" else [])

    def _advance(self, job_id: str, again: Sequence[int] = ()) -> None:
        """A broker that is away is no harm: a keeper sends what is to do when it is back."""
        try:
            for chunk in again:
                self.jobs.send_again(job_id, chunk)
            self.jobs.advance(job_id)
        except BrokerUnavailableError:
            log.warning("broker_away", job_id=job_id)


class _ChunkRun:
    """One run of one chunk."""

    def __init__(self, runner: ChunkRunner, job: CaptionJob, attempt: Attempt, chunk: int) -> None:
        self._runner = runner
        self._archive = runner.archive
        self._captions = runner.captioner
        self._board: Board = runner.jobs.board
        self._job = job
        self._attempt = attempt
        self._chunk = chunk
        self._began = self._saved = self._checked = time.monotonic()
        self._results: dict[int, ItemResult] = {}
        self._unsaved: list[ItemResult] = []
        self._tries = 1

    def run(self) -> Ending:
        if stop := self._stop():
            return stop
        whole = self._archive.chunk(self._job.id, self._chunk)
        if whole is not None:
            self._results = {result.item: result for result in whole}
            self._report(is_complete=True)
            return "complete"
        self._results = self._archive.parts(self._job.id, self._chunk)
        self._tries = self._tolerating_broker(lambda: self._board.begin(self._job.id, self._chunk)) or 1
        try:
            ending = self._caption()
        except (StoreUnavailableError, BrokerUnavailableError):
            self._set_tries(self._tries - 1)  # no photo is to blame
            raise
        if ending == "complete":
            ordered = sorted(self._results.values(), key=lambda result: result.item)
            self._archive.add_chunk(self._job.id, self._chunk, ordered)
            self._report(is_complete=True)
        else:
            self._save()
        return ending

    def _caption(self) -> Ending:
        numbers = self._attempt.items_of(self._chunk, self._job)
        missing = [number for number in numbers if number not in self._results]
        dataset = self._runner.datasets.get(self._job.dataset)
        if missing and self._tries > GIVE_UP_AFTER:
            self._give_up(dataset, missing.pop(0))
        step = 1 if self._is_careful else max(1, len(missing))
        for begin in range(0, len(missing), step):
            if ending := self._caption_some(dataset, missing[begin : begin + step]):
                return ending
        return "complete"

    def _caption_some(self, dataset: Dataset, numbers: list[int]) -> Ending | None:
        """What cut it short, if anything did."""
        to_caption = self._without_settled(dataset, numbers)
        likeness = self._likeness()
        results = self._captions.caption(
            dataset, to_caption, self._job.options, embeddings=self._needs_captions(likeness)
        )
        with closing(results):
            for result in results:
                for whole in likeness.settle(result) if likeness else (result,):
                    self._add(whole)
                if ending := self._interruption():
                    return ending
        return None

    def _likeness(self) -> ChunkLikeness | None:
        if self._job.duplicates != "caption-once":
            return None
        return ChunkLikeness(self._job.duplicate_similarity, self._results.values())

    def _needs_captions(self, likeness: ChunkLikeness | None) -> Embeddings | None:
        if likeness is not None:
            return likeness.is_new
        return None if self._job.duplicates == "ignore" else _always

    def _give_up(self, dataset: Dataset, number: int) -> None:
        ((_, item),) = self._runner.datasets.items(dataset.id, [number])
        error = WorkerLostError(f"{self._tries - 1} workers in a row ended while they captioned this image")
        self._add(failed_result(dataset, number, item, error))
        self._save()

    @property
    def _is_careful(self) -> bool:
        return self._tries > CAREFUL_AFTER

    def _without_settled(self, dataset: Dataset, missing: list[int]) -> Iterator[tuple[int, Item]]:
        for number, item in self._runner.datasets.items(dataset.id, missing):
            settled = settled_beside(self._job, dataset, number, item, text_names=self._runner.text_names)
            if settled is None:
                yield number, item
            else:
                self._add(settled)

    def _add(self, result: ItemResult) -> None:
        self._results[result.item] = result
        self._unsaved.append(result)
        self._runner.metrics.item_done(result.outcome)
        if self._is_careful or time.monotonic() - self._saved > self._runner.limits.save_s:
            self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._unsaved:
            name = f"{int(1000 * time.time()):013d}-{uuid4().hex[:8]}"
            self._archive.add_part(self._job.id, self._chunk, name, self._unsaved)
            self._unsaved = []
            self._set_tries(CAREFUL_AFTER if self._is_careful else 0)
        self._report(is_complete=False)

    def _report(self, *, is_complete: bool) -> None:
        """The results are safe already: a broker that is away only shows them later."""
        counts = counts_of(self._results.values())
        try:
            self._board.report(
                self._job.id, self._attempt.number, self._chunk, counts, is_complete=is_complete
            )
            self._runner.jobs.tell_progress(self._job.id)
        except BrokerUnavailableError as error:
            log.warning("progress_not_reported", job_id=self._job.id, error=str(error))

    def _set_tries(self, tries: int) -> None:
        self._tolerating_broker(lambda: self._board.set_tries(self._job.id, self._chunk, tries))

    def _tolerating_broker(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except BrokerUnavailableError:
            return None

    def _interruption(self) -> Ending | None:
        now = time.monotonic()
        if self._runner.is_stopping() or now - self._began > self._runner.limits.chunk_s:
            return "given back"
        if now - self._checked < CHECK_S:
            return None
        self._checked = now
        return self._stop()

    def _stop(self) -> Stop | None:
        try:
            return self._board.stopped(self._job.id)
        except BrokerUnavailableError:
            return self._archive.stop(self._job.id, self._attempt.number)


def _always(number: int, embedding: Vector) -> bool:
    return True
