"""What another attempt at an ended job has to do."""

from collections.abc import Callable

from service.errors import JobStateError
from service.jobs.archive import JobArchive, counts_of, results_of
from service.jobs.documents import Attempt, Counts, FinetuneJob, ItemResult, now
from service.jobs.status import JobStatus


def next_attempt(
    archive: JobArchive, status: JobStatus, *, may_succeed: Callable[[ItemResult], bool]
) -> tuple[Attempt, int]:
    """The attempt that does what is left, and how many items that are: none where only files were not made.

    Args:
        may_succeed: whether a failed item is worth another try.

    Raises:
        JobStateError: there is nothing to run again.
    """
    last = archive.attempt(status.job.id)
    if isinstance(status.job, FinetuneJob):
        return _whole(status, last), status.job.num_items
    settled, items = Counts(), set(range(status.job.num_items))
    for result in results_of(archive, status.job.id):
        if result.outcome != "failed" or not may_succeed(result):
            settled += counts_of([result])
            items.remove(result.item)
    if not items and not _lacks_files(status):
        raise JobStateError(f"nothing to run again: {_why_nothing(status.counts.failed)}")
    attempt = Attempt(
        number=last.number + 1,
        created=now(),
        first_chunk=last.chunks.stop,
        num_chunks=status.job.chunks_for(len(items)),
        items=tuple(sorted(items)),
        settled=settled,
    )
    return attempt, len(items)


def _lacks_files(status: JobStatus) -> bool:
    """The job failed, but not for its photos: outputs or texts were not written."""
    return status.state == "failed" and status.counts.done + status.counts.skipped > 0


def _why_nothing(failed: int) -> str:
    if not failed:
        return "no photo failed"
    return (
        f"none of the photos that failed ({failed}) has changed; repair them in the server folder or bucket, "
        "or send repaired photos of an upload as a new dataset"
    )


def _whole(status: JobStatus, last: Attempt) -> Attempt:
    """A training from its beginning: photos may have changed."""
    if status.state == "succeeded":
        raise JobStateError("nothing to run again: the job has made its version")
    return Attempt(number=last.number + 1, created=now(), first_chunk=last.chunks.stop, num_chunks=1)
