"""The end of a job comes, whatever goes wrong with its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import JobStateError, StoreUnavailableError
from service.jobs.archive import output_key
from service.jobs.documents import CaptionJob
from service.jobs.finishing import MOST_TRIES
from service.jobs.jobs import FINISH
from service.jobs.parts import JobParts
from tests.service.jobs.conftest import dataset_of, job_on, photo_folder, uploaded
from tests.service.jobs.fakes import InlineWorker


def raising(*_: Any, **__: Any) -> Iterator[bytes]:
    raise ValueError("internal text")


def run_to_the_end(parts: JobParts, job: CaptionJob, *, most: int) -> int:
    """How many tries ended in an error before the job ended."""
    worker, errors = InlineWorker(parts), 0
    while parts.jobs.status(job.id).ended is None:
        try:
            worker.do_all()
        except (ValueError, StoreUnavailableError):
            errors += 1
        assert errors <= most
        parts.keeper.look()
    return errors


def test_output_that_cannot_be_made_fails_the_job_and_costs_no_other_file(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.outputs.xmp_of", raising)
    job = job_on(uploaded(parts, 3), outputs=("xmp", "csv"))
    parts.jobs.submit(job)
    assert run_to_the_end(parts, job, most=MOST_TRIES) == MOST_TRIES - 1
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done) == ("failed", 3)
    assert status.error == "captions-xmp.tar could not be made (ValueError); see the workers' logs"
    assert parts.store.has(output_key(job.id, 1, "captions.csv"))


def test_retry_makes_files_that_could_not_be_made_without_running_a_photo_again(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(uploaded(parts, 3), outputs=("xmp",))
    parts.jobs.submit(job)
    with monkeypatch.context() as broken:
        broken.setattr("service.jobs.outputs.xmp_of", raising)
        run_to_the_end(parts, job, most=MOST_TRIES)
    captions = list(parts.jobs.results(job.id))
    status, num_items = parts.jobs.retry(job.id, may_succeed=lambda result: True)
    assert (num_items, status.ended, status.counts.done) == (0, None, 3)
    assert run_to_the_end(parts, job, most=0) == 0
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.error) == ("succeeded", 3, None)
    assert parts.store.has(output_key(job.id, 2, "captions-xmp.tar"))
    assert list(parts.jobs.results(job.id)) == captions
    with pytest.raises(JobStateError, match="nothing to run again: no photo failed"):
        parts.jobs.retry(job.id, may_succeed=lambda result: True)


def test_retry_makes_the_files_of_a_job_that_skipped_every_photo(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=2)
    for name in ("0000", "0001"):
        (folder / f"{name}.txt").write_text("a person's\n")
    job = job_on(dataset_of(parts, folder), writes_to_folder=True, outputs=("csv",))
    parts.jobs.submit(job)
    with monkeypatch.context() as broken:
        broken.setattr("service.jobs.outputs._csv", raising)
        run_to_the_end(parts, job, most=MOST_TRIES)
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.skipped) == ("failed", 2)
    assert parts.jobs.retry(job.id, may_succeed=lambda result: True)[1] == 0
    run_to_the_end(parts, job, most=0)
    assert parts.jobs.status(job.id).state == "succeeded"


def test_job_whose_end_raises_can_be_canceled(parts: JobParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.finishing.json_lines", raising)
    job = job_on(uploaded(parts, 3))
    parts.jobs.submit(job)
    with pytest.raises(ValueError, match="internal text"):
        InlineWorker(parts).do_all()
    parts.jobs.cancel(job.id)
    run_to_the_end(parts, job, most=MOST_TRIES)
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done) == ("canceled", 3)
    assert "internal text" not in (status.error or "")


def test_end_that_kills_every_worker_is_given_up(parts: JobParts) -> None:
    job = job_on(uploaded(parts, 3))
    parts.jobs.submit(job)
    parts.jobs.board.set_tries(job.id, FINISH, MOST_TRIES)
    assert run_to_the_end(parts, job, most=0) == 0
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done) == ("failed", 3)
    assert f"{MOST_TRIES} workers in a row ended" in (status.error or "")


def test_store_that_is_away_for_long_costs_a_job_nothing(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = parts.store.write, [2 * MOST_TRIES]

    def full(key: str, pieces: Iterator[bytes]) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreUnavailableError("no space left")
        return write(key, pieces)

    monkeypatch.setattr(parts.store, "write", full)
    job = job_on(uploaded(parts, 3))
    parts.jobs.submit(job)
    assert run_to_the_end(parts, job, most=2 * MOST_TRIES) == 2 * MOST_TRIES
    assert parts.jobs.status(job.id).state == "succeeded"
