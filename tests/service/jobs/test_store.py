"""The artifact store, and jobs on one that fails for a while."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from service.errors import CommandError, ServiceError, StoreUnavailableError
from service.jobs.parts import JobParts
from service.jobs.store import ArtifactStore
from tests.service.jobs.conftest import job_on, uploaded
from tests.service.jobs.fakes import InlineWorker
from tests.service.jobs.s3 import running_s3


@pytest.fixture(params=["memory:///", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "store") if request.param == "folder" else request.param)


def test_object_is_written_whole_or_not_at_all(store: ArtifactStore) -> None:
    pieces = [bytes([number]) * 100_000 for number in range(120)]
    assert store.write("big", iter(pieces)) == 12_000_000
    assert b"".join(store.stream("big") or ()) == b"".join(pieces)

    def broken() -> object:
        yield from pieces
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write("half", broken())  # type: ignore[arg-type]
    assert (store.get("half"), store.keys("half")) == (None, [])


def test_what_a_killed_writer_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path))
    writer = "from service.jobs.store import ArtifactStore\nimport os, sys\n"
    writer += "pieces = (bytes(9_000_000) if number < 2 else os.abort() for number in range(3))\n"
    writer += "ArtifactStore.open(sys.argv[1]).write('jobs/a.tar', pieces)"
    subprocess.run([sys.executable, "-c", writer, str(tmp_path)], stderr=subprocess.DEVNULL, check=False)
    (left,) = (tmp_path / "jobs").iterdir()
    store.put("jobs/b#1.tar", b"whole")
    for path in (tmp_path / "jobs").iterdir():
        os.utime(path, times=(time.time() - 3600,) * 2)
    store.put("jobs/a.tar", b"whole")
    assert store.drop_unfinished(timedelta(hours=2)) == 0
    assert store.drop_unfinished(timedelta(minutes=50)) == 1
    assert not left.exists()
    assert len(store.keys("jobs")) == 2
    assert ArtifactStore.open("memory:///").drop_unfinished(timedelta(0)) == 0


def test_create_leaves_what_is_there(store: ArtifactStore) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert store.get("a/b") == b"first"
    store.put("a/b", b"third")
    assert (store.get("a/b"), store.size("a/b")) == (b"third", 5)


def test_write_of_which_the_answer_was_lost_has_been_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = ArtifactStore.open("s3://photos/store")
        server.unanswered = {"store/a"}
        assert store.create("a", b"mine")
        assert not store.create("a", b"another's")
        assert store.get("a") == b"mine"


def test_what_is_not_there_is_none_and_deleting_it_no_error(store: ArtifactStore) -> None:
    assert (store.get("x"), store.size("x"), store.stream("x"), store.keys("x")) == (None, None, None, [])
    store.put("y/1", b"")
    store.put("y/2/3", b"")
    assert (store.keys("y"), store.folders("y"), store.folders("x")) == (["y/1", "y/2/3"], ["2"], [])
    store.delete(["x", "y/1"])
    assert store.keys("y") == ["y/2/3"]


@pytest.mark.parametrize("location", ["nosuch://bucket", "s3://"])
def test_store_that_cannot_be_opened_names_the_setting(location: str) -> None:
    with pytest.raises(CommandError, match="SEMICAP_STORE_URL"):
        ArtifactStore.open(location)


@pytest.mark.parametrize(
    "location", ["nosuch://user:s3cret@bucket", "az://key:s3cret@photos/x", "nosuch://us er:s3cret@bucket"]
)
def test_password_in_the_location_of_a_store_is_not_told(location: str) -> None:
    with pytest.raises(CommandError, match="SEMICAP_STORE_URL") as caught:
        ArtifactStore.open(location)
    assert "s3cret" not in str(caught.value)


def test_why_a_folder_cannot_be_written_is_told_to_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ArtifactStore.open(str(tmp_path / "store"))
    (tmp_path / "store" / "a").write_text("a file where a folder should be")
    with pytest.raises(StoreUnavailableError, match="the artifact store failed at a/b; the log") as caught:
        store.put("a/b", b"x")
    assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) in caplog.text


def test_job_waits_for_a_full_disk_and_loses_nothing(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.jobs.LOST_AFTER_S", 0.0)
    job = job_on(uploaded(parts, 30))
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_one()
    put = ArtifactStore.put

    def full(self: ArtifactStore, key: str, data: bytes) -> None:
        raise StoreUnavailableError("No space left on device")

    monkeypatch.setattr(ArtifactStore, "put", full)
    for _ in range(12):  # more often than a photo that kills its worker is tried
        parts.keeper.look()
        with pytest.raises(ServiceError, match="No space left"):
            worker.do_all()
    monkeypatch.setattr(ArtifactStore, "put", put)
    while parts.jobs.status(job.id).ended is None:
        parts.keeper.look()
        worker.do_all()
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.counts.failed) == ("succeeded", 30, 0)
    assert [result.item for result in parts.jobs.results(job.id)] == list(range(30))
