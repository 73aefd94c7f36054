"""Jobs from submission to end: what routes, workers and the command line ask for."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from service.errors import BrokerUnavailableError, JobStateError, TooManyJobsError
from service.jobs.archive import JobArchive, counts_of, results_of
from service.jobs.board import Board
from service.jobs.documents import Attempt, ItemResult, Job, JobState, Outcome, now
from service.jobs.queue import JobQueue, finish_message
from service.jobs.retrying import next_attempt
from service.jobs.status import JobStatus, summary

SPARE_CHUNKS = 2
"""Chunks of one job that wait for a worker, and two more for each that is being done: no worker idles, the
queue stays short, and a small job need not wait for all of a large one."""

LOST_AFTER_S = 10.0
"""A chunk that was sent this long ago, that nobody holds and that does not wait, is sent again."""

FINISH = "finish"
"""Name of the lease under which a job's outputs are written."""

WEBHOOK = "webhook"
"""Name of the lease under which a job's webhook is delivered."""

_PROGRESS_EVENT_S = 1.0


class Jobs:
    """The jobs of a store, on a board and a queue."""

    def __init__(self, archive: JobArchive, board: Board, queue: JobQueue, *, max_active: int) -> None:
        self.archive = archive
        self.board = board
        self.queue = queue
        self._max_active = max_active
        self._told: dict[str, float] = {}

    def submit(self, job: Job) -> JobStatus:
        """Takes a job; once this returns it will be done, whatever happens to broker and workers.

        Raises:
            TooManyJobsError: as many as may be wait or run already.
            StoreUnavailableError: it was not taken.
        """
        if len(self.archive.active()) >= self._max_active:
            raise TooManyJobsError(f"{self._max_active} jobs wait or run already", retry_after_s=30)
        attempt = Attempt(number=1, created=now(), num_chunks=job.chunks_for(job.num_items))
        self.archive.add(job, attempt)
        self._begin(job, attempt)
        return self.status(job.id)

    def status(self, job_id: str) -> JobStatus:
        """Raises JobNotFoundError."""
        job, attempt = self.archive.job(job_id), self.archive.attempt(job_id)
        outcome = self.archive.outcome(job_id, attempt.number)
        if outcome is not None:
            return JobStatus(
                job,
                attempt.number,
                outcome.state,
                outcome.counts,
                started=outcome.started,
                ended=outcome.ended,
                error=outcome.error,
                training=self.archive.training_of(job, attempt.number),
            )
        return self._running_status(job, attempt)

    def cancel(self, job_id: str) -> JobStatus:
        """Asks a job to end; workers stop within a batch.

        Raises:
            JobNotFoundError: there is none.
            JobStateError: it has ended.
        """
        status = self.status(job_id)
        if status.ended is not None:
            raise JobStateError(f"the job has ended ({status.state}); there is nothing to cancel")
        self.archive.ask_to_cancel(job_id, status.attempt)

        def spread() -> None:
            self.board.stop(job_id, "canceled")
            self.advance(job_id)

        self._tolerating_broker(spread)
        return self.status(job_id)

    def pause(self, job_id: str) -> JobStatus:
        """Lets a job rest; workers stop within a batch and go on with others.

        Raises:
            JobNotFoundError: there is none.
            JobStateError: it has ended or is being canceled.
        """
        status = self._status_before_end(job_id, "pause")
        self.archive.ask_to_pause(job_id, status.attempt)

        def spread() -> None:
            self.board.stop(job_id, "paused")
            self._tell(self.status(job_id), event="paused")

        self._tolerating_broker(spread)
        return self.status(job_id)

    def resume(self, job_id: str) -> JobStatus:
        """Goes on with a job that rests. Raises as pause."""
        status = self._status_before_end(job_id, "resume")
        self.archive.end_pause(job_id, status.attempt)
        attempt = self.archive.attempt(job_id)

        def spread() -> None:
            self.rebuild(status.job, attempt)
            self._tell(self.status(job_id), event="resumed")
            self.advance(job_id)

        self._tolerating_broker(spread)
        return self.status(job_id)

    def retry(self, job_id: str, *, may_succeed: Callable[[ItemResult], bool]) -> tuple[JobStatus, int]:
        """Runs again what failed, and of a canceled job what was not done; the status and how many items.

        Args:
            may_succeed: whether a failed item is worth another try.

        Raises:
            JobStateError: the job has not ended, or there is nothing to run again.
        """
        status = self.status(job_id)
        if status.ended is None:
            raise JobStateError(f"the job is {status.state}; it can be retried when it has ended")
        attempt, num_items = next_attempt(self.archive, status, may_succeed=may_succeed)
        if not self.archive.add_attempt(job_id, attempt):
            raise JobStateError("another request retries the job at this moment")
        self._begin(status.job, attempt)
        return self.status(job_id), num_items

    def results(self, job_id: str) -> Iterator[ItemResult]:
        """Every result so far, one for each item. Raises JobNotFoundError."""
        self.archive.job(job_id)
        return results_of(self.archive, job_id)

    def rebuild(self, job: Job, attempt: Attempt) -> None:
        """Puts an attempt on the board as the store knows it."""
        complete = self.archive.complete_chunks(job.id)
        begun = (complete | self.archive.chunks_with_parts(job.id)) & set(attempt.chunks)
        chunks = {
            chunk: (counts_of(self.archive.settled_in(job.id, chunk)), chunk in complete)
            for chunk in sorted(begun)
        }
        todo = [chunk for chunk in attempt.chunks if chunk not in complete]
        self.board.place(job, attempt, todo=todo, chunks=chunks)
        if stop := self.archive.stop(job.id, attempt.number):
            self.board.stop(job.id, stop)

    def advance(self, job_id: str) -> None:
        """Sends the chunks there is room for, or asks for the job's end; call it when something is done."""
        stopped = self.board.stopped(job_id)
        running = len(self.board.leased(job_id, self.board.sent(job_id)))
        for chunk in () if stopped else self.board.take(job_id, room=SPARE_CHUNKS + 2 * running):
            self._send(job_id, chunk)
        if self.is_drained(job_id):
            self.queue.send_finish(job_id)

    def is_drained(self, job_id: str) -> bool:
        """Whether nothing is left to do but the end."""
        progress = self.board.progress(job_id)
        if progress is None:
            return False
        if progress.chunks_left == 0:
            return True
        return self.board.stopped(job_id) == "canceled" and not self.board.leased(
            job_id, self.board.sent(job_id)
        )

    def send_again(self, job_id: str, chunk: int) -> None:
        """Sends a chunk that was given back or lost."""
        self.board.sent_again(job_id, chunk)
        self._send(job_id, chunk)

    def send_lost(self, job_id: str, *, waiting: set[str]) -> int:
        """Sends again what nobody does and what does not wait; how many chunks.

        Args:
            waiting: ids of the messages in the queue.
        """
        if self.board.stopped(job_id):
            return 0
        old = time.time() - LOST_AFTER_S
        sent = [chunk for chunk, when in self.board.sent(job_id).items() if when < old]
        held = self.board.leased(job_id, sent)
        lost = [chunk for chunk in sent if chunk not in held and f"{job_id}:{chunk}" not in waiting]
        for chunk in lost:
            self.send_again(job_id, chunk)
        return len(lost)

    def needs_finish(self, job_id: str, *, waiting: set[str]) -> bool:
        """Whether the end was asked for by nobody."""
        if finish_message(job_id) in waiting or self.board.leased(job_id, [FINISH]):
            return False
        return self.is_drained(job_id)

    def oldest_s(self, job_ids: Iterable[str]) -> float:
        """Seconds since the oldest chunk of a bulk job that is on its way was sent; 0 when there is none.

        A job that rests waits for a person, and a fine-tuning is one part of hours: neither counts.
        """
        sent = [when for job_id in job_ids for when in self._moving(job_id).values()]
        return max(0.0, time.time() - min(sent)) if sent else 0.0

    def _moving(self, job_id: str) -> dict[int, float]:
        """When each chunk was sent that workers should be at by now."""
        sent = self.board.sent(job_id)
        if not sent or self.board.stopped(job_id) or self.archive.job(job_id).kind == "finetune":
            return {}
        return sent

    def end(self, job: Job, outcome: Outcome) -> None:
        """Keeps how the job ended and tells those who listen."""
        self.archive.end(job.id, outcome)
        self._tolerating_broker(lambda: self._tell(self.status(job.id), event=outcome.state))

    def tell_progress(self, job_id: str) -> None:
        """A progress event, at most one in a second from each process."""
        last = self._told.get(job_id, 0.0)
        if time.monotonic() - last < _PROGRESS_EVENT_S:
            return
        self._told = {job_id: time.monotonic()}
        self._tell(self.status(job_id), event="progress")

    def _send(self, job_id: str, chunk: int) -> None:
        self.queue.send_chunk(job_id, chunk, kind=self.archive.job(job_id).kind)

    def _status_before_end(self, job_id: str, wanted: str) -> JobStatus:
        status = self.status(job_id)
        if status.ended is not None or status.cancel_requested:
            state = status.state if status.ended is not None else "being canceled"
            raise JobStateError(f"the job is {state}; there is nothing to {wanted}")
        return status

    def _begin(self, job: Job, attempt: Attempt) -> None:
        """The job is safe in the store: a broker that is away only makes it start later."""

        def begin() -> None:
            self.board.place(job, attempt, todo=attempt.chunks, chunks={})
            self._tell(self.status(job.id), event="queued")
            self.advance(job.id)

        self._tolerating_broker(begin)

    def _tolerating_broker(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BrokerUnavailableError:
            return

    def tell_point(self, job_id: str, point: dict[str, float]) -> None:
        """A `curve` event."""
        self.board.tell(job_id, "curve", json.dumps(point))

    def _tell(self, status: JobStatus, *, event: str) -> None:
        self.board.tell(status.job.id, event, json.dumps(summary(status)))

    def _running_status(self, job: Job, attempt: Attempt) -> JobStatus:
        stop = self.archive.stop(job.id, attempt.number)
        canceling = stop == "canceled"
        try:
            progress = self.board.progress(job.id)
        except BrokerUnavailableError:
            progress = None
        if progress is None or progress.attempt != attempt.number:
            state: JobState = "paused" if stop == "paused" else "queued"
            return JobStatus(
                job,
                attempt.number,
                state,
                attempt.settled,
                cancel_requested=canceling,
                training=self.archive.training_of(job, attempt.number),
            )
        counts = attempt.settled + progress.counts
        left = job.num_items - counts.total
        rate = None if stop == "paused" else progress.rate
        training = self.archive.training_of(job, attempt.number)
        return JobStatus(
            job,
            attempt.number,
            "paused" if stop == "paused" else progress.state,
            counts,
            cancel_requested=canceling,
            started=datetime.fromtimestamp(progress.started, UTC) if progress.started else None,
            rate=None if training else rate,
            seconds_left=training.seconds_left if training else left / rate if rate else None,
            training=training,
        )
