"""The store's record of jobs: manifests, attempts, chunk results, and which jobs are not over."""

import heapq
import json
from collections.abc import Iterable, Iterator
from itertools import groupby

from service.errors import JobNotFoundError
from service.jobs.datasets import is_id
from service.jobs.documents import (
    JOB,
    Attempt,
    CaptionJob,
    Counts,
    Delivery,
    FinetuneJob,
    ItemResult,
    Job,
    Outcome,
    Stop,
    TrainingRecord,
    now,
)
from service.jobs.store import ArtifactStore

_ACTIVE = "active"


class JobArchive:
    """Everything that must survive the loss of the broker."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    # jobs

    def add(self, job: Job, attempt: Attempt) -> None:
        """Keeps a new job; from the last of these writes on it will run."""
        self.store.put(_attempt_key(job.id, attempt.number), attempt.to_bytes())
        self.store.put(_job_key(job.id), job.to_bytes())
        self.mark_active(job.id)

    def job(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""
        found = self.store.get(_job_key(job_id)) if is_id(job_id) else None
        if found is None:
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return JOB.validate_json(found)

    def has(self, job_id: str) -> bool:
        return self.store.has(_job_key(job_id))

    def ids(self) -> list[str]:
        """Every job, the oldest first."""
        return self.store.folders("jobs")

    # attempts

    def attempt(self, job_id: str) -> Attempt:
        """The job's last attempt. Raises JobNotFoundError."""
        attempts = self.attempts(job_id)
        if not attempts:
            raise JobNotFoundError(f"there is no job {job_id[:64]!r}")
        return attempts[-1]

    def attempts(self, job_id: str) -> list[Attempt]:
        """Every attempt, the first one first."""
        found = (self.store.get(key) for key in self.store.keys(f"jobs/{job_id}/attempts"))
        attempts = [Attempt.model_validate_json(data) for data in found if data is not None]
        return sorted(attempts, key=lambda attempt: attempt.number)

    def add_attempt(self, job_id: str, attempt: Attempt) -> bool:
        """Starts another attempt; False when somebody else has."""
        if not self.store.create(_attempt_key(job_id, attempt.number), attempt.to_bytes()):
            return False
        self.mark_active(job_id)
        return True

    def outcome(self, job_id: str, attempt: int) -> Outcome | None:
        """How an attempt ended, when it has."""
        found = self.store.get(_outcome_key(job_id, attempt))
        return Outcome.model_validate_json(found) if found else None

    def end(self, job_id: str, outcome: Outcome) -> None:
        """Keeps how an attempt ended; the first one to say so is right."""
        self.store.create(_outcome_key(job_id, outcome.attempt), outcome.to_bytes())

    def ask_to_cancel(self, job_id: str, attempt: int) -> None:
        self.store.put(_cancel_key(job_id, attempt), b"")

    def is_canceled(self, job_id: str, attempt: int) -> bool:
        return self.store.has(_cancel_key(job_id, attempt))

    def ask_to_pause(self, job_id: str, attempt: int) -> None:
        self.store.put(_pause_key(job_id, attempt), b"")

    def end_pause(self, job_id: str, attempt: int) -> None:
        self.store.delete([_pause_key(job_id, attempt)])

    def stop(self, job_id: str, attempt: int) -> Stop | None:
        """Whether an attempt shall do nothing more, and for how long."""
        if self.is_canceled(job_id, attempt):
            return "canceled"
        return "paused" if self.store.has(_pause_key(job_id, attempt)) else None

    def delivery(self, job_id: str, attempt: int) -> Delivery:
        """How far the attempt's webhook is."""
        found = self.store.get(_delivery_key(job_id, attempt))
        return Delivery.model_validate_json(found) if found else Delivery(attempt=attempt, due=now())

    def keep_delivery(self, job_id: str, delivery: Delivery) -> None:
        self.store.put(_delivery_key(job_id, delivery.attempt), delivery.to_bytes())

    # jobs of one kind

    def captioning(self, job_id: str) -> CaptionJob:
        """Raises JobNotFoundError, also for a job of another kind."""
        job = self.job(job_id)
        if not isinstance(job, CaptionJob):
            raise JobNotFoundError(f"the job {job_id} captions nothing")
        return job

    def finetune(self, job_id: str) -> FinetuneJob:
        """Raises JobNotFoundError, also for a job of another kind."""
        job = self.job(job_id)
        if not isinstance(job, FinetuneJob):
            raise JobNotFoundError(f"the job {job_id} is no fine-tuning job")
        return job

    def training(self, job_id: str, attempt: int) -> TrainingRecord | None:
        """How far the training of an attempt is."""
        found = self.store.get(_training_key(job_id, attempt))
        return TrainingRecord.model_validate_json(found) if found else None

    def training_of(self, job: Job, attempt: int) -> TrainingRecord | None:
        """The same, from its beginning on; None for a job that trains nothing."""
        if not isinstance(job, FinetuneJob):
            return None
        return self.training(job.id, attempt) or TrainingRecord(attempt=attempt, steps=job.settings["steps"])

    def keep_training(self, job_id: str, record: TrainingRecord) -> None:
        self.store.put(_training_key(job_id, record.attempt), record.to_bytes())

    # jobs that are not over

    def active(self) -> list[str]:
        """Jobs that somebody has to look after, the oldest first."""
        return [key.rpartition("/")[2] for key in self.store.keys(_ACTIVE)]

    def mark_active(self, job_id: str) -> None:
        self.store.put(_active_key(job_id), b"")

    def take_up(self, job_id: str) -> bool:
        """Marks a job that is not over and that nobody looks after; whether it was one."""
        attempts = [_number_of(key) for key in self.store.keys(f"jobs/{job_id}/attempts")]
        if not attempts or self.store.has(_outcome_key(job_id, max(attempts))):
            return False
        if not self.has(job_id) or self.store.has(_active_key(job_id)):
            return False
        self.mark_active(job_id)
        return True

    def mark_over(self, job_id: str) -> None:
        self.store.delete([_active_key(job_id)])

    # results

    def chunk(self, job_id: str, chunk: int) -> list[ItemResult] | None:
        """All results of a chunk that is complete."""
        found = self.store.get(chunk_key(job_id, chunk))
        return None if found is None else _read_lines(found)

    def complete_chunks(self, job_id: str) -> set[int]:
        return {_number_of(key) for key in self.store.keys(f"jobs/{job_id}/chunks")}

    def add_chunk(self, job_id: str, chunk: int, results: Iterable[ItemResult]) -> None:
        """Keeps a complete chunk and drops the parts that led to it; of two workers' the first one stays."""
        self.store.create(chunk_key(job_id, chunk), _lines(results))
        self.store.delete(self._part_keys(job_id, chunk))

    def parts(self, job_id: str, chunk: int) -> dict[int, ItemResult]:
        """Results of a chunk that is not complete, by item; of two for one item the first counts."""
        results: dict[int, ItemResult] = {}
        for key in self._part_keys(job_id, chunk):
            for result in _read_lines(self.store.get(key) or b""):
                results.setdefault(result.item, result)
        return results

    def chunks_with_parts(self, job_id: str) -> set[int]:
        return {int(key.split("/")[-2]) for key in self.store.keys(f"jobs/{job_id}/parts")}

    def add_part(self, job_id: str, chunk: int, name: str, results: Iterable[ItemResult]) -> None:
        self.store.put(f"jobs/{job_id}/parts/{chunk:06d}/{name}.jsonl", _lines(results))

    def settled_in(self, job_id: str, chunk: int) -> list[ItemResult]:
        """A chunk's results as far as there are any."""
        whole = self.chunk(job_id, chunk)
        if whole is not None:
            return whole
        parts = list(self.parts(job_id, chunk).values())
        whole = self.chunk(job_id, chunk)  # whose parts may have been dropped while they were read
        return parts if whole is None else whole

    def _part_keys(self, job_id: str, chunk: int) -> list[str]:
        return self.store.keys(f"jobs/{job_id}/parts/{chunk:06d}")


def results_of(archive: JobArchive, job_id: str) -> Iterator[ItemResult]:
    """One result for each item that has one, in order; a later attempt's in place of an earlier's."""
    known = archive.complete_chunks(job_id) | archive.chunks_with_parts(job_id)
    attempts = [_results_in(archive, job_id, attempt, known) for attempt in archive.attempts(job_id)]
    merged = heapq.merge(*attempts, key=_item)  # of equal items, an earlier attempt's comes first
    for _, same in groupby(merged, key=_item):
        *_, latest = same
        yield latest


def _results_in(archive: JobArchive, job_id: str, attempt: Attempt, known: set[int]) -> Iterator[ItemResult]:
    for chunk in attempt.chunks:
        if chunk in known:
            yield from sorted(archive.settled_in(job_id, chunk), key=_item)


def _item(result: ItemResult) -> int:
    return result.item


def counts_of(results: Iterable[ItemResult]) -> Counts:
    """Results by outcome."""
    outcomes = [result.outcome for result in results]
    return Counts(
        done=outcomes.count("captioned") + outcomes.count("used"),
        failed=outcomes.count("failed"),
        skipped=outcomes.count("skipped"),
    )


def chunk_key(job_id: str, chunk: int) -> str:
    """Where a complete chunk lies."""
    return f"jobs/{job_id}/chunks/{chunk:06d}.jsonl"


def output_key(job_id: str, attempt: int, name: str) -> str:
    """Where an output of an attempt lies."""
    return f"jobs/{job_id}/outputs/{attempt}/{name}"


def _lines(results: Iterable[ItemResult]) -> bytes:
    return b"".join(
        json.dumps(result.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n" for result in results
    )


def _read_lines(data: bytes) -> list[ItemResult]:
    return [ItemResult.model_validate_json(line) for line in data.splitlines()]


def _number_of(key: str) -> int:
    return int(key.rpartition("/")[2].partition(".")[0])


def _active_key(job_id: str) -> str:
    return f"{_ACTIVE}/{job_id}"


def _job_key(job_id: str) -> str:
    return f"jobs/{job_id}/job.json"


def _attempt_key(job_id: str, number: int) -> str:
    return f"jobs/{job_id}/attempts/{number:04d}.json"


def _outcome_key(job_id: str, attempt: int) -> str:
    return f"jobs/{job_id}/outcome-{attempt:04d}.json"


def _training_key(job_id: str, number: int) -> str:
    return f"jobs/{job_id}/training-{number:04d}.json"


def _delivery_key(job_id: str, attempt: int) -> str:
    return f"jobs/{job_id}/webhook-{attempt:04d}.json"


def _pause_key(job_id: str, attempt: int) -> str:
    return f"jobs/{job_id}/pause-{attempt:04d}"


def _cancel_key(job_id: str, attempt: int) -> str:
    return f"jobs/{job_id}/cancel-{attempt:04d}"
