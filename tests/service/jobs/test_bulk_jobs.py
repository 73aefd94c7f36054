"""A bulk job from submission to end: nothing lost, nothing twice, whatever is lost in between."""

from collections import Counter
from pathlib import Path

import pytest

from service.errors import JobStateError, StoreUnavailableError
from service.jobs.chunks import CAREFUL_AFTER, GIVE_UP_AFTER
from service.jobs.datasets import image_key
from service.jobs.documents import CaptionJob, ItemResult, chunk_items_for
from service.jobs.failures import worth_retrying
from service.jobs.outputs import captioned, errors
from service.jobs.parts import JobParts
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.conftest import dataset_of, job_on, photo, photo_folder, uploaded
from tests.service.jobs.fakes import FakeCaptions, InlineWorker


def outcomes(parts: JobParts, job: CaptionJob) -> Counter[str]:
    return Counter(result.outcome for result in parts.jobs.results(job.id))


def items(parts: JobParts, job: CaptionJob) -> list[int]:
    return [result.item for result in parts.jobs.results(job.id)]


def test_job_captions_every_photo_once_and_says_how_far_it_is(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 25))
    assert parts.jobs.submit(job).state == "queued"
    worker = InlineWorker(parts)
    worker.do_one()
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.ended) == ("running", 10, None)
    worker.do_all()
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.error) == ("succeeded", 25, None)
    assert items(parts, job) == list(range(25))
    assert sorted(worker.captions.done) == list(range(25))
    parts.keeper.look()
    assert parts.jobs.archive.active() == []


def test_bad_files_are_error_lines_and_a_retry_runs_what_was_mended(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=48, broken=4)
    dataset = dataset_of(parts, folder)
    job = job_on(dataset)
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_all()
    assert outcomes(parts, job) == {"captioned": 48, "failed": 4}
    lines = list(errors(parts.jobs.results(job.id)))
    assert [line["file_name"] for line in lines] == [f"{number:04d}.jpg" for number in range(48, 52)]
    assert all(
        line["problem"]["type"].endswith("broken-image") and line["problem"]["detail"] for line in lines
    )

    may_succeed = worth_retrying(parts.datasets, job)
    with pytest.raises(JobStateError, match="nothing to run again"):
        parts.jobs.retry(job.id, may_succeed=may_succeed)

    (folder / "0049.jpg").write_bytes(photo(49))
    worker.captions.done.clear()
    status, retried = parts.jobs.retry(job.id, may_succeed=may_succeed)
    assert (retried, status.state, status.counts.done, status.counts.failed) == (1, "queued", 48, 3)
    worker.do_all()
    assert worker.captions.done == [49]
    status = parts.jobs.status(job.id)
    assert (status.state, status.attempt, status.counts.done, status.counts.failed) == ("succeeded", 2, 49, 3)
    assert items(parts, job) == list(range(52))


def test_cancel_stops_within_a_batch_and_a_retry_does_the_rest(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 40), chunk_items=20)
    captions = FakeCaptions(parts.datasets, item_s=0.3, on_item=lambda n: cancel() if n == 3 else None)
    worker = InlineWorker(parts, captions)

    def cancel() -> None:
        assert parts.jobs.cancel(job.id).cancel_requested

    parts.jobs.submit(job)
    worker.do_all()
    status = parts.jobs.status(job.id)
    assert status.state == "canceled"
    assert 4 <= status.counts.done <= 7
    assert len(items(parts, job)) == status.counts.done
    with pytest.raises(JobStateError, match="canceled"):
        parts.jobs.cancel(job.id)

    rest = InlineWorker(parts)
    _, retried = parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
    rest.do_all()
    assert retried == 40 - status.counts.done
    assert items(parts, job) == list(range(40))
    assert len(rest.captions.done) == retried


def test_paused_job_rests_whatever_is_lost_until_it_is_resumed(
    parts: JobParts, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.jobs.LOST_AFTER_S", 0.0)
    monkeypatch.setattr("service.jobs.chunks.CHECK_S", 0.0)
    job = job_on(uploaded(parts, 40), chunk_items=20)
    worker = InlineWorker(
        parts, FakeCaptions(parts.datasets, on_item=lambda n: n == 3 and parts.jobs.pause(job.id))
    )
    parts.jobs.submit(job)
    worker.do_all()
    assert (parts.jobs.status(job.id).state, worker.captions.done) == ("paused", [0, 1, 2, 3])
    broker.flush()
    for _ in range(2):
        parts.keeper.look()
        worker.do_all()
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.rate) == ("paused", 4, None)
    assert parts.jobs.resume(job.id).state == "running"
    rest = InlineWorker(parts)
    rest.do_all()
    assert sorted(rest.captions.done) == list(range(4, 40))
    assert parts.jobs.status(job.id).state == "succeeded"
    with pytest.raises(JobStateError, match="succeeded; there is nothing to pause"):
        parts.jobs.pause(job.id)


def test_paused_job_can_be_canceled(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 20))
    parts.jobs.submit(job)
    parts.jobs.pause(job.id)
    parts.jobs.cancel(job.id)
    with pytest.raises(JobStateError, match="being canceled"):
        parts.jobs.resume(job.id)
    worker = InlineWorker(parts)
    worker.do_all()
    assert (parts.jobs.status(job.id).state, worker.captions.done) == ("canceled", [])


def test_chunk_given_back_keeps_what_is_done(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 20), chunk_items=20)
    worker = InlineWorker(parts, chunk_s=0.0)  # after one photo the time is over
    parts.jobs.submit(job)
    worker.do_all()
    assert parts.jobs.status(job.id).state == "succeeded"
    assert worker.captions.done == list(range(20))


def test_stopping_worker_gives_its_chunk_to_another(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 20), chunk_items=20)
    leaving = InlineWorker(parts)
    leaving.stopping.set()
    parts.jobs.submit(job)
    leaving.do_one()
    assert parts.jobs.status(job.id).counts.done == 1
    staying = InlineWorker(parts)
    staying.do_all()
    assert len(staying.captions.done) == 19
    assert items(parts, job) == list(range(20))


def test_job_goes_on_after_the_broker_lost_everything(parts: JobParts, broker: RunningBroker) -> None:
    job = job_on(uploaded(parts, 50))
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_one()
    worker.do_one()
    broker.flush()
    assert not worker.do_one()
    assert parts.keeper.look() == {job.id: "rebuilt"}
    assert parts.jobs.status(job.id).counts.done == 20
    worker.do_all()
    assert parts.jobs.status(job.id).state == "succeeded"
    assert sorted(worker.captions.done) == list(range(50))


def test_job_taken_while_the_broker_is_away_starts_when_it_is_back(
    parts: JobParts, broker: RunningBroker
) -> None:
    job = job_on(uploaded(parts, 5))
    broker.kill()
    assert parts.jobs.submit(job).state == "queued"
    broker.start()
    parts.keeper.look()
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"


def test_job_whose_taker_died_before_anybody_looked_after_it_is_found(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, job = job_on(uploaded(parts, 2)), job_on(uploaded(parts, 5))
    parts.jobs.submit(ended)
    InlineWorker(parts).do_all()
    parts.keeper.look()
    with monkeypatch.context() as patch:
        patch.setattr(parts.jobs.archive, "mark_active", _failing)
        with pytest.raises(StoreUnavailableError):
            parts.jobs.submit(job)
    assert parts.keeper.look() == {}
    assert parts.keeper.look_back() == [job.id]
    assert parts.keeper.look_back() == []
    parts.keeper.look()
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"


def _failing(job_id: str) -> None:
    raise StoreUnavailableError("no space left")


def test_chunk_of_a_killed_worker_is_sent_again(parts: JobParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.jobs.LOST_AFTER_S", 0.0)
    job = job_on(uploaded(parts, 20))
    parts.jobs.submit(job)
    assert parts.keeper.look() == {}, "what waits in the queue is not lost"
    parts.jobs.board.client.delete("semicap.chunks")  # as if a worker had taken both and died
    assert parts.keeper.look() == {job.id: "2 chunks sent again"}
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"


def test_photo_that_kills_every_worker_is_given_up_and_costs_only_itself(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.jobs.LOST_AFTER_S", 0.0)
    job = job_on(uploaded(parts, 20))

    def die(number: int) -> None:
        if number == 13:
            raise MemoryError

    parts.jobs.submit(job)
    worker = InlineWorker(parts, FakeCaptions(parts.datasets, on_item=die), save_s=60.0)
    deaths = 0
    while parts.jobs.status(job.id).ended is None:
        try:
            worker.do_all()
        except MemoryError:
            deaths += 1
        assert deaths <= 2 * GIVE_UP_AFTER
        parts.keeper.look()
    assert deaths > CAREFUL_AFTER
    (line,) = errors(parts.jobs.results(job.id))
    assert (line["item"], line["problem"]["type"]) == (13, "urn:semicap:problem:worker-lost")
    assert parts.jobs.status(job.id).counts.done == 19


def test_two_workers_on_one_chunk_leave_one_result_for_each_item(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 10))
    parts.jobs.submit(job)
    archive = parts.jobs.archive
    archive.add_part(job.id, 0, "b", [one for one in _results(parts, job) if one.item < 6])
    archive.add_part(job.id, 0, "a", [one for one in _results(parts, job) if one.item > 3])
    worker = InlineWorker(parts)
    worker.do_all()
    assert worker.captions.done == []
    assert items(parts, job) == list(range(10))


def test_job_of_nothing_but_broken_photos_fails(parts: JobParts, tmp_path: Path) -> None:
    job = job_on(dataset_of(parts, photo_folder(tmp_path / "photos", good=0, broken=3)))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.failed) == ("failed", 3)
    assert "none of the 3 photos" in (status.error or "")
    assert list(captioned(parts.jobs.results(job.id))) == []


def _results(parts: JobParts, job: CaptionJob) -> list[ItemResult]:
    dataset = parts.datasets.get(job.dataset)
    numbered = parts.datasets.items(dataset.id, range(job.num_items))
    return list(FakeCaptions(parts.datasets).caption(dataset, numbered, {}))


def test_photo_that_the_store_has_lost_is_an_error_line_that_a_retry_runs(parts: JobParts) -> None:
    dataset = uploaded(parts, 5)
    ((_, item),) = parts.datasets.items(dataset.id, [2])
    parts.store.delete([image_key(item.sha256 or "")])
    job = job_on(dataset)
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert outcomes(parts, job) == {"captioned": 4, "failed": 1}
    parts.store.put(image_key(item.sha256 or ""), photo(2))
    _, retried = parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
    InlineWorker(parts).do_all()
    assert (retried, outcomes(parts, job)) == (1, {"captioned": 5})


@pytest.mark.parametrize(("num_items", "expected"), [(5, 128), (8_192, 128), (30_000, 468), (10**6, 1024)])
def test_large_jobs_have_large_chunks_and_still_enough_to_share(num_items: int, expected: int) -> None:
    assert chunk_items_for(num_items, least=128) == expected
