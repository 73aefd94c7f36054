"""Looks after the jobs that are not over: rebuilds what the broker lost, sends again what a worker lost, and
deletes what need not be kept."""

import threading
import time
from datetime import datetime

import structlog

from service.errors import BrokerUnavailableError, JobNotFoundError, ServiceError
from service.jobs.deliveries import Deliveries, Mark
from service.jobs.documents import Job, now
from service.jobs.jobs import WEBHOOK, Jobs
from service.jobs.queue import webhook_message
from service.jobs.retention import Retention

TICK_S = 3.0
SWEEP_S = 3600.0
"""Seconds between two looks for what need not be kept any longer."""

LOOK_BACK_S = 3600.0
"""Seconds between two looks for jobs that nobody looks after, the first one at the start."""

MOST_LOOKED_BACK_AT = 1000
"""Jobs, the newest ones, among which such a look is."""

MOST_WEBHOOKS = 200
"""That one look sends; the next look goes on."""

_STOP_S = 5.0
"""That a stop waits for the look in hand; a broker that hangs may hold it for longer."""

_LOCK = "keeper"
_SWEEP = "retention"

log = structlog.stdlib.get_logger("semicap.keeper")


class Keeper:
    """A thread in every API and worker; one of them at a time looks."""

    def __init__(self, jobs: Jobs, retention: Retention) -> None:
        self._jobs = jobs
        self._deliveries = Deliveries(jobs.archive.store)
        self._retention = retention
        self._swept = time.monotonic() - SWEEP_S
        self._looked_back = time.monotonic() - LOOK_BACK_S
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="semicap-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def look_back(self) -> list[str]:
        """Finds the jobs that are neither over nor looked after: who took them died, or the store failed.

        Raises:
            StoreUnavailableError: nothing can be done now.
        """
        archive = self._jobs.archive
        active = set(archive.active())
        newest = (job_id for job_id in archive.ids()[-MOST_LOOKED_BACK_AT:] if job_id not in active)
        found = [job_id for job_id in newest if archive.take_up(job_id)]
        for job_id in found:
            log.info("looked_after", job_id=job_id, done="found")
        self._looked_back = time.monotonic()
        return found

    def look(self) -> dict[str, str]:
        """Looks after every job once; what was done, by job.

        Raises:
            BrokerUnavailableError, StoreUnavailableError: nothing can be done now.
        """
        with self._jobs.board.lease("all", _LOCK) as lease:
            if not lease.is_held:
                return {}
            waiting = self._jobs.queue.waiting()
            looked_after = {
                job_id: done
                for job_id in self._jobs.archive.active()
                if (done := self._look_after(job_id, waiting))
            }
            due = self._deliveries.due(most=MOST_WEBHOOKS)
            return looked_after | {
                mark.job_id: "webhook" for mark in due if self._send_webhook(mark, waiting)
            }

    def _look_after(self, job_id: str, waiting: set[str]) -> str | None:
        jobs, archive = self._jobs, self._jobs.archive
        try:
            job, attempt = archive.job(job_id), archive.attempt(job_id)
        except JobNotFoundError:
            archive.mark_over(job_id)
            return "forgotten"
        if archive.outcome(job_id, attempt.number) is not None:
            return self._let_go(job, attempt.number)
        rebuilt = not self._is_on_board(job_id, attempt.number)
        if rebuilt:
            jobs.rebuild(job, attempt)
        lost = jobs.send_lost(job_id, waiting=waiting)
        if rebuilt or not jobs.is_drained(job_id):
            jobs.advance(job_id)
        elif jobs.needs_finish(job_id, waiting=waiting):
            jobs.queue.send_finish(job_id)
        return "rebuilt" if rebuilt else f"{lost} chunks sent again" if lost else None

    def _is_on_board(self, job_id: str, attempt: int) -> bool:
        """A pause, its end or a cancel may have been asked for while the broker was away."""
        board, archive = self._jobs.board, self._jobs.archive
        return board.has(job_id, attempt) and board.stopped(job_id) == archive.stop(job_id, attempt)

    def _let_go(self, job: Job, attempt: int) -> str:
        """The job is over with its outcome; its webhook may take a day."""
        jobs = self._jobs
        due = jobs.archive.delivery(job.id, attempt).due if job.webhook else None
        if due is not None:
            self._deliveries.add(job.id, due)
        jobs.board.remove(job.id)
        jobs.archive.mark_over(job.id)
        if jobs.archive.attempt(job.id).number != attempt:
            jobs.archive.mark_active(job.id)  # a retry has begun meanwhile, and its mark may be gone
        return "over"

    def _send_webhook(self, mark: Mark, waiting: set[str]) -> bool:
        jobs, job_id = self._jobs, mark.job_id
        due = self._due(job_id)
        if due is None:
            self._deliveries.drop(mark)
        elif due > now():
            self._deliveries.put_off(mark, due)
        elif webhook_message(job_id) not in waiting and not jobs.board.leased(job_id, [WEBHOOK]):
            jobs.queue.send_webhook(job_id)
            return True
        return False

    def _due(self, job_id: str) -> datetime | None:
        """When the webhook is to be tried; None when it is over, or the job runs again and will end again."""
        archive = self._jobs.archive
        try:
            job, attempt = archive.job(job_id), archive.attempt(job_id)
        except JobNotFoundError:
            return None
        if job.webhook is None or archive.outcome(job_id, attempt.number) is None:
            return None
        return archive.delivery(job_id, attempt.number).due

    def _sweep_when_due(self) -> None:
        if time.monotonic() - self._swept < SWEEP_S:
            return
        self._swept = time.monotonic()
        with self._jobs.board.lease("all", _SWEEP) as lease:
            if lease.is_held:
                self._retention.sweep()

    def _run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                if time.monotonic() - self._looked_back >= LOOK_BACK_S:
                    self.look_back()
                for job_id, done in self.look().items():
                    log.info("looked_after", job_id=job_id, done=done)
                self._sweep_when_due()
            except BrokerUnavailableError:
                log.debug("broker_away")
            except ServiceError as error:
                log.warning("keeper_failed", error=str(error))
            except Exception:
                log.exception("keeper_failed")
            self._ended.wait(max(0.0, TICK_S - (time.monotonic() - began)))
