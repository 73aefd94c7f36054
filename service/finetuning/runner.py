"""A worker's part of a fine-tuning job: the process that trains, watched from its start to its end."""

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast

import structlog

from service.errors import BrokerUnavailableError, StoreUnavailableError
from service.finetuning.child import Child
from service.finetuning.folders import RunFolders
from service.finetuning.log import Point, TrainingLog
from service.finetuning.saved_state import SavedStates
from service.finetuning.task import Ending, RunFolder, Task
from service.jobs.archive import counts_of
from service.jobs.documents import Attempt, FinetuneJob, ItemResult, ModelMade, Phase, Stop, TrainingRecord
from service.jobs.jobs import Jobs
from service.jobs.lease import Lease
from service.metrics import Metrics

LOOK_S = 0.5
"""Seconds between two looks at the process, its log, and whether the job was canceled."""

RECORD_S = 3.0
"""Seconds between two records in the store, which the API reads."""

GIVE_UP_AFTER = 6
"""Processes in a row that ended without a new state after which the job fails."""

TaskFor = Callable[[FinetuneJob], Task]
RunEnding = Literal["complete", "canceled", "paused", "given back", "lost"]

log = structlog.stdlib.get_logger("semicap.worker")


class FinetuneRunner:
    """Does fine-tuning jobs for a worker.

    Args:
        root: folder for what runs keep on this machine's disk.
        is_stopping: whether the worker shall give back what it has.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        root: Path,
        task_for: TaskFor,
        metrics: Metrics,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.jobs = jobs
        self.archive = jobs.archive
        self.folders = RunFolders(root)
        self.task_for = task_for
        self.metrics = metrics
        self.is_stopping = is_stopping

    def run(self, job_id: str, chunk: int) -> None:
        """Trains until the end; returns at once when another worker does, or it is over."""
        job, attempt = self.archive.finetune(job_id), self.archive.attempt(job_id)
        if self.archive.outcome(job_id, attempt.number) is not None or chunk not in attempt.chunks:
            return
        with (
            self.jobs.board.lease(job_id, chunk) as lease,
            self.folders.hold(job_id, attempt.number) as folder,
        ):
            if not lease.is_held or folder is None:
                return
            self.folders.drop_ended(self.archive)
            try:
                ending = _Run(self, job, attempt, lease=lease, folder=folder).run()
            finally:
                self.metrics.finetune_ended()
        log.info("finetune", job_id=job_id, ending=ending)
        with suppress(BrokerUnavailableError):  # a keeper sends what is to do when it is back
            if ending == "given back":
                self.jobs.send_again(job_id, chunk)
            self.jobs.advance(job_id)


class _Run:
    """One stay of a worker with an attempt."""

    def __init__(
        self, runner: FinetuneRunner, job: FinetuneJob, attempt: Attempt, *, lease: Lease, folder: RunFolder
    ) -> None:
        self._runner = runner
        self._jobs, self._archive = runner.jobs, runner.archive
        self._job, self._attempt, self._chunk = job, attempt, attempt.first_chunk
        self._lease, self._folder = lease, folder
        self._states = SavedStates(runner.archive.store, job.id, attempt.number)
        known = self._archive.training(job.id, attempt.number)
        self._record = known or TrainingRecord(attempt=attempt.number, steps=int(job.settings["steps"]))
        self._log = TrainingLog(folder.training, steps=self._record.steps)
        self._told = max((point["step"] for point in self._record.curve), default=-1.0)
        self._recorded = self._began = time.monotonic()
        self._first_step: int | None = None
        self._kept_step: int | None = None

    def run(self) -> RunEnding:
        if (stop := self._stop()) is not None:
            return self._stopped(stop)
        if self._archive.chunk(self._job.id, self._chunk) is not None:
            return self._complete()
        tries = self._jobs.board.begin(self._job.id, self._chunk)
        if tries > GIVE_UP_AFTER:
            return self._fail(
                f"{tries - 1} processes in a row ended while they trained; see the workers' logs"
            )
        if self._record.step == 0:
            self._report(is_complete=False)  # it runs, from the first photo on
        self._states.bring(self._folder)
        self._folder.ending.unlink(missing_ok=True)
        self._runner.task_for(self._job).write(self._folder.task)
        with Child(self._folder) as child:
            ending = self._watch(child)
            if ending is not None:
                return ending
            return self._end_of(child)

    def _watch(self, child: Child) -> RunEnding | None:
        """None when the process has ended by itself."""
        while child.wait(LOOK_S) is None:
            self._look()
            if self._lease.is_lost:
                return "lost"
            stop = self._stop()
            if stop == "paused" or self._runner.is_stopping():
                self._save(child)
                return stop or "given back"
            if stop is not None:
                return self._stopped(stop)
        self._look()
        return None

    def _end_of(self, child: Child) -> RunEnding:
        if not self._folder.ending.is_file():
            log.warning("finetune_process_ended", job_id=self._job.id, output=child.last_words())
            self._keep_record()
            return "given back"
        ending = Ending.read(self._folder.ending)
        if ending.error is not None:
            log.warning("finetune_failed", job_id=self._job.id, output=child.last_words())
            return self._fail(ending.error)
        made = ModelMade(id=ending.model or "", gate=ending.gate, is_activated=ending.is_activated)
        self._record = self._record.model_copy(update={"model": made, "note": ending.note})
        return self._complete()

    def _look(self) -> None:
        """Tells what is new of the process; a store or broker that is away hears it later."""
        fresh = self._log.read()
        self._metrics(fresh)
        phase = self._phase()
        self._record = self._record.model_copy(
            update={
                "phase": phase,
                "step": max(self._record.step, self._log.step),
                "seconds_left": self._seconds_left(phase),
                "curve": tuple(self._log.points) or self._record.curve,
            }
        )
        with suppress(BrokerUnavailableError, StoreUnavailableError):
            for point in fresh:
                if point["step"] > self._told or "clip_similarity" in point:
                    self._jobs.tell_point(self._job.id, point)
                    self._told = max(self._told, point["step"])
            self._keep_state()
            if time.monotonic() - self._recorded > RECORD_S:
                self._keep_record()

    def _keep_record(self) -> None:
        self._recorded = time.monotonic()
        self._archive.keep_training(self._job.id, self._record)
        if self._folder.items.is_file():
            self._report(is_complete=False)

    def _keep_state(self) -> None:
        step = self._states.keep(self._folder)
        if step is not None and self._kept_step not in (None, step):
            self._set_tries(0)  # it has got further
        self._kept_step = step

    def _complete(self) -> RunEnding:
        """What is done twice here has the same result."""
        self._archive.keep_training(self._job.id, self._record)
        if self._archive.chunk(self._job.id, self._chunk) is None:
            self._archive.add_chunk(self._job.id, self._chunk, self._results())
        self._report(is_complete=True)
        self._drop()
        return "complete"

    def _fail(self, reason: str) -> RunEnding:
        self._record = self._record.model_copy(update={"error": reason})
        return self._complete()

    def _save(self, child: Child) -> None:
        child.stop()
        self._look()
        self._states.keep(self._folder)
        self._set_tries(0)
        self._keep_record()

    def _stopped(self, stop: Stop) -> RunEnding:
        if stop == "canceled":
            self._drop()
        return stop

    def _drop(self) -> None:
        self._states.drop()
        shutil.rmtree(self._folder.root, ignore_errors=True)

    def _report(self, *, is_complete: bool) -> None:
        counts = counts_of(self._results())
        with suppress(BrokerUnavailableError):
            self._jobs.board.report(
                self._job.id, self._attempt.number, self._chunk, counts, is_complete=is_complete
            )
            self._jobs.tell_progress(self._job.id)

    def _results(self) -> list[ItemResult]:
        whole = self._archive.chunk(self._job.id, self._chunk)
        if whole is not None:
            return whole
        return read_results(self._folder.items) if self._folder.items.is_file() else []

    def _phase(self) -> Phase:
        with suppress(OSError):
            return cast(Phase, self._folder.phase.read_text() or self._record.phase)
        return self._record.phase

    def _seconds_left(self, phase: Phase) -> float | None:
        """Of training, by the mean of this stay; what follows is not in it."""
        step, now = self._log.step, time.monotonic()
        if phase != "training" or not step:
            return None
        if self._first_step is None:
            self._first_step, self._began = step, now
        done = step - self._first_step
        return (now - self._began) / done * (self._record.steps - step) if done else None

    def _metrics(self, points: Iterable[Point]) -> None:
        for point in points:
            self._runner.metrics.finetune_point(point)

    def _set_tries(self, tries: int) -> None:
        with suppress(BrokerUnavailableError):
            self._jobs.board.set_tries(self._job.id, self._chunk, tries)

    def _stop(self) -> Stop | None:
        try:
            return self._jobs.board.stopped(self._job.id)
        except BrokerUnavailableError:
            return self._archive.stop(self._job.id, self._attempt.number)


def read_results(path: Path) -> list[ItemResult]:
    """What the process has written of its photos."""
    lines = path.read_bytes().splitlines()  # as text it would part names at other separators too
    return [ItemResult.model_validate_json(line) for line in lines]
