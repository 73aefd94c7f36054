"""Where a job stands, and what is said of it."""

from dataclasses import dataclass
from datetime import datetime

from service.jobs.documents import Counts, Job, JobState, TrainingRecord


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, over all its attempts.

    Args:
        rate: items a second, over the last minute.
        seconds_left: estimated from it; None when there is none.
        training: of a fine-tuning job.
    """

    job: Job
    attempt: int
    state: JobState
    counts: Counts
    cancel_requested: bool = False
    started: datetime | None = None
    ended: datetime | None = None
    rate: float | None = None
    seconds_left: float | None = None
    error: str | None = None
    training: TrainingRecord | None = None


def summary(status: JobStatus) -> dict[str, object]:
    """What events and webhooks say of a job."""
    return {
        "id": status.job.id,
        "kind": status.job.kind,
        "state": status.state,
        "attempt": status.attempt,
        "total": status.job.num_items,
        "done": status.counts.done,
        "failed": status.counts.failed,
        "skipped": status.counts.skipped,
        "rate": None if status.rate is None else round(status.rate, 2),
        "seconds_left": None if status.seconds_left is None else round(status.seconds_left, 1),
        **(_training(status.training) if status.training else {}),
    }


def _training(record: TrainingRecord) -> dict[str, object]:
    model = record.model
    return {
        "progress": {"phase": record.phase, "step": record.step, "steps": record.steps},
        "model": model.model_dump() if model else None,
    }
