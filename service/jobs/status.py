"""Where a job stands, and what is said of it."""

from dataclasses import dataclass
from datetime import datetime

from service.jobs.documents import CaptionJob, Counts, JobState


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, over all its attempts.

    Args:
        seconds_left: estimated from the rate of the last minute; None when there is none.
    """

    job: CaptionJob
    attempt: int
    state: JobState
    counts: Counts
    cancel_requested: bool = False
    started: datetime | None = None
    finished: datetime | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    error: str | None = None


def summary(status: JobStatus) -> dict[str, object]:
    """What events and webhooks say of a job."""
    return {
        "id": status.job.id,
        "state": status.state,
        "attempt": status.attempt,
        "total": status.job.num_items,
        "done": status.counts.done,
        "failed": status.counts.failed,
        "skipped": status.counts.skipped,
        "images_per_s": None if status.images_per_s is None else round(status.images_per_s, 2),
        "seconds_left": None if status.seconds_left is None else round(status.seconds_left, 1),
    }
