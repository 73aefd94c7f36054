"""Two that meet at one job: workers at a chunk, who reads and who writes, a retry and the keeper."""

import pytest

from service.jobs.documents import ItemResult
from service.jobs.parts import JobParts
from tests.service.jobs.conftest import job_on, uploaded
from tests.service.jobs.fakes import InlineWorker


def test_chunk_that_becomes_complete_while_its_parts_are_read_is_read_whole(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(uploaded(parts, 3))
    results = [ItemResult(item=number, file_name=f"{number}.jpg", outcome="skipped") for number in range(3)]
    archive = parts.jobs.archive
    archive.add_part(job.id, 0, "first", results[:2])

    def read_late(job_id: str, chunk: int) -> dict[int, ItemResult]:
        archive.add_chunk(job_id, chunk, results)
        return {}

    monkeypatch.setattr(archive, "parts", read_late)
    assert archive.settled_in(job.id, 0) == results


def test_chunk_that_another_worker_has_completed_stays_as_it_is(parts: JobParts) -> None:
    archive = parts.jobs.archive
    first, late = (
        [ItemResult(item=0, file_name=f"{name}.jpg", outcome="skipped")] for name in ("first", "late")
    )
    archive.add_chunk("job-1", 0, first)
    archive.add_chunk("job-1", 0, late)
    assert archive.chunk("job-1", 0) == first


def test_retry_while_the_keeper_lets_go_of_the_attempt_before_is_looked_after(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(uploaded(parts, 20))
    parts.jobs.submit(job)
    parts.jobs.cancel(job.id)
    InlineWorker(parts).do_all()
    mark_over = parts.jobs.archive.mark_over

    def after_a_retry(job_id: str) -> None:
        parts.jobs.retry(job_id, may_succeed=lambda result: True)
        mark_over(job_id)

    with monkeypatch.context() as patch:
        patch.setattr(parts.jobs.archive, "mark_over", after_a_retry)
        parts.keeper.look()
    parts.jobs.board.remove(job.id)
    assert parts.keeper.look() == {job.id: "rebuilt"}
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"
