"""Retention: what is older than the operator's settings goes, what an active job needs stays."""

import hashlib
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from service.jobs.archive import output_key
from service.jobs.datasets import image_key
from service.jobs.documents import CaptionJob
from service.jobs.parts import JobParts
from service.jobs.retention import Keep, Retention
from tests.service.jobs.conftest import job_on, photo, uploaded
from tests.service.jobs.fakes import InlineWorker

NO_TIME = timedelta(0)
A_DAY = timedelta(days=1)


def sweep(parts: JobParts, **keep: timedelta) -> list[str]:
    return Retention(parts.jobs.archive, parts.datasets, Keep(**keep)).sweep()


def ended(parts: JobParts, *, outputs: tuple[str, ...] = ()) -> CaptionJob:
    job = job_on(uploaded(parts, 3), outputs=outputs)
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    parts.keeper.look()
    return job


def age(folder: Path) -> None:
    """Every object was written two days ago."""
    for path in (folder / "data" / "store").rglob("*"):
        os.utime(path, times=(time.time() - 2 * 86_400,) * 2)


def photos_of(parts: JobParts, dataset_id: str) -> list[str]:
    return [image_key(sha256) for sha256 in parts.datasets.photos(dataset_id)]


def test_nothing_is_deleted_unless_the_operator_says_so(parts: JobParts, tmp_path: Path) -> None:
    ended(parts)
    age(tmp_path)
    before = parts.store.keys("")
    assert sweep(parts) == []
    assert sweep(parts, jobs=A_DAY, outputs=A_DAY, datasets=A_DAY) == []
    assert parts.store.keys("") == before


def test_outputs_go_and_results_stay(parts: JobParts) -> None:
    job = ended(parts, outputs=("csv",))
    with structlog.testing.capture_logs() as logged:
        assert sweep(parts, outputs=NO_TIME) == [f"{job.id}/outputs"]
    assert parts.store.get(output_key(job.id, 1, "captions.csv")) is None
    assert len(list(parts.jobs.results(job.id))) == 3
    assert [(line["event"], line["what"], line["id"]) for line in logged] == [
        ("deleted", "outputs", f"{job.id}/outputs")
    ]
    assert sweep(parts, outputs=NO_TIME) == []


def test_ended_job_goes_and_an_active_one_stays(parts: JobParts) -> None:
    old = ended(parts)
    waiting = job_on(uploaded(parts, 3))
    parts.jobs.submit(waiting)
    parts.jobs.pause(waiting.id)
    assert sweep(parts, jobs=NO_TIME, outputs=NO_TIME) == [old.id]
    assert parts.jobs.archive.ids() == [waiting.id]
    assert parts.store.keys(f"jobs/{old.id}") == []
    parts.jobs.resume(waiting.id)
    InlineWorker(parts).do_all()
    assert parts.jobs.status(waiting.id).counts.done == 3


def test_dataset_goes_with_the_photos_that_no_other_has(parts: JobParts, tmp_path: Path) -> None:
    job = ended(parts)  # photos 0, 1, 2
    used = job_on(uploaded(parts, 1))  # photo 0
    parts.jobs.submit(used)
    age(tmp_path)
    shared, *own = photos_of(parts, job.dataset)
    assert sweep(parts, datasets=NO_TIME) == [job.dataset]
    assert [parts.store.has(key) for key in (shared, *own)] == [True, False, False]
    InlineWorker(parts).do_all()
    assert parts.jobs.status(used.id).counts.done == 1


def test_photo_that_is_uploaded_again_is_not_deleted_meanwhile(parts: JobParts, tmp_path: Path) -> None:
    old = uploaded(parts, 1)
    age(tmp_path)
    parts.store.delete([f"datasets/{old.id}/dataset.json"])  # as a failed upload leaves it
    new = uploaded(parts, 1)
    parts.store.delete(parts.store.keys(f"datasets/{new.id}"))  # not yet written
    assert sweep(parts, datasets=A_DAY) == [old.id]
    assert parts.store.get(photos_of_content(0)) == photo(0)


@pytest.mark.parametrize("keep", [{}, {"jobs": A_DAY}, {"datasets": A_DAY}])
def test_what_a_failed_upload_left_goes_whatever_is_kept(
    parts: JobParts, tmp_path: Path, keep: dict[str, timedelta]
) -> None:
    whole, failed = uploaded(parts, 1), uploaded(parts, 3)  # photo 0 is of both
    photos = photos_of(parts, failed.id)
    parts.store.delete([f"datasets/{failed.id}/dataset.json"])
    assert sweep(parts, **keep) == [], "it may be on its way"
    age(tmp_path)
    used = job_on(whole)
    parts.jobs.submit(used)
    assert sweep(parts, **keep) == [failed.id]
    assert [parts.store.has(key) for key in photos] == [True, False, False]


def photos_of_content(number: int) -> str:
    return image_key(hashlib.sha256(photo(number)).hexdigest())
