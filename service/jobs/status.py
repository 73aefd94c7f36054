"""Where a job stands, and what is said of it."""

from dataclasses import dataclass
from datetime import datetime

from service.jobs.documents import Counts, Job, JobState, TrainingRecord


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, over all its attempts.

    Args:
        seconds_left: estimated from the rate of the last minute; None when there is none.
        training: of a fine-tuning job.
    """

    job: Job
    attempt: int
    state: JobState
    counts: Counts
    cancel_requested: bool = False
    started: datetime | None = None
    finished: datetime | None = None
    images_per_s: float | None = None
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
        "images_per_s": None if status.images_per_s is None else round(status.images_per_s, 2),
        "seconds_left": None if status.seconds_left is None else round(status.seconds_left, 1),
        **(_training(status.training) if status.training else {}),
    }


def _training(record: TrainingRecord) -> dict[str, object]:
    model = record.model
    return {
        "progress": {"phase": record.phase, "step": record.step, "steps": record.steps},
        "model": model.model_dump() if model else None,
    }
