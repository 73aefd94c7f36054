"""`semicap jobs` against a running service."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.api.app import create_app
from service.cli import main
from service.jobs.documents import ModelMade, TrainingRecord
from service.jobs.parts import JobParts
from service.jobs.tar_stream import tar_of
from service.model_registry import ModelRegistry
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.served import served
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.conftest import photo, photo_folder
from tests.service.jobs.fakes import InlineWorker
from tests.service.jobs.trained import train

Semicap = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def settings(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("server")
    return Settings(data_dir=root / "data", redis_url=broker.url, dataset_roots=(root,))


@pytest.fixture(scope="module")
def address(settings: Settings, tiny_model: ServedModel) -> Iterator[str]:
    with served(create_app(settings, tiny_model)) as url:
        yield url


@pytest.fixture
def semicap(address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Semicap:
    """Runs `semicap jobs …`; exit status, standard output, standard error."""
    monkeypatch.setenv("SEMICAP_URL", address)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semicap", "jobs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def worker(settings: Settings) -> Iterator[InlineWorker]:
    parts = JobParts.build(settings)
    yield InlineWorker(parts)
    parts.close()


def test_folder_is_sent_captioned_and_read_back(
    semicap: Semicap, worker: InlineWorker, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=4, broken=1)
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.jpg").write_bytes(photo(9))
    status, out, err = semicap(
        "submit", "captions", str(folder), "--option", "num_beams=2", "--output", "csv"
    )
    assert status == 0, err
    job = out.strip()
    worker.do_all()
    answer = json.loads(semicap("status", job)[1])
    assert (answer["state"], answer["options"]["num_beams"]) == ("succeeded", 2)
    assert answer["counts"] == {"total": 6, "done": 5, "failed": 1, "skipped": 0}
    names = [json.loads(line)["file_name"] for line in semicap("results", job)[1].splitlines()]
    assert names == ["0000.jpg", "0001.jpg", "0002.jpg", "0003.jpg", "sub/deep.jpg"]
    assert len(semicap("results", job, "--output", "csv")[1].splitlines()) == 6
    assert "0004.jpg" in semicap("errors", job)[1]
    status, _, err = semicap("status", job, "--watch")
    assert (status, "5 captioned, 1 failed" in err) == (1, True)
    status, _, err = semicap("retry", job)
    assert (status, "nothing to run again" in err) == (2, True)
    assert f"{job}  captions  succeeded  5 done, 1 failed" in semicap("list")[1]


def test_ctrl_c_while_watching_says_that_the_job_goes_on(
    semicap: Semicap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.jobs.watching.time", SimpleNamespace(sleep=press_ctrl_c))
    photos = photo_folder(tmp_path / "photos", good=2)
    status, out, err = semicap("submit", "captions", str(photos), "--watch")
    assert status == 130
    assert f"the job goes on; semicap jobs status {out.strip()} --watch" in err
    assert semicap("cancel", out.strip())[0] == 0


def test_job_on_a_servers_folder_is_canceled_and_retried(
    semicap: Semicap, worker: InlineWorker, settings: Settings
) -> None:
    folder = photo_folder(settings.dataset_roots[0] / "album", good=3)
    job = semicap("submit", "captions", str(folder), "--on-server", "--write-to-folder")[1].strip()
    assert semicap("cancel", job)[0] == 0
    worker.do_all()
    assert json.loads(semicap("status", job)[1])["state"] == "canceled"
    assert semicap("retry", job)[1] == "3 photos run again\n"
    worker.do_all()
    assert json.loads(semicap("status", job)[1])["counts"]["done"] == 3
    assert (folder / "0002.txt").read_text() == "a picture of 10 by 8\n"


def test_archive_is_sent_as_it_is_and_its_dataset_used_again(
    semicap: Semicap, worker: InlineWorker, tmp_path: Path
) -> None:
    archive = tmp_path / "photos.tar"
    archive.write_bytes(b"".join(tar_of([("a.jpg", photo()), ("notes.txt", b"x")])))
    _, out, err = semicap("submit", "captions", str(archive))
    assert "left out: notes.txt: not a photo" in err
    dataset = json.loads(semicap("status", out.strip())[1])["dataset"]
    assert semicap("submit", "captions", dataset)[0] == 0
    worker.do_all()


def test_photo_that_cannot_be_read_is_left_out_and_said(
    semicap: Semicap, worker: InlineWorker, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=2)
    (folder / "bad.jpg").symlink_to("/proc/self/mem")  # nobody can read it from its beginning
    _, out, err = semicap("submit", "captions", str(folder))
    assert "bad.jpg: Input/output error" in err
    assert json.loads(semicap("status", out.strip())[1])["counts"]["total"] == 2
    worker.do_all()


def test_file_of_captions_or_archive_that_cannot_be_read_ends_the_submission(
    semicap: Semicap, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=2)
    (folder / "metadata.jsonl").symlink_to("/proc/self/mem")
    status, out, err = semicap("submit", "captions", str(folder))
    assert (status, out) == (2, "")
    assert "metadata.jsonl cannot be read (Input/output error); nothing was submitted" in err
    status, out, err = semicap("submit", "captions", "/proc/self/mem")
    assert (status, out) == (2, "")
    assert "/proc/self/mem cannot be read" in err


@pytest.mark.parametrize("job", ["job x", "jöb", "job\udcff", "a/b?c#d", "job%20x"])
def test_any_text_as_an_id_is_a_job_that_is_not_there(semicap: Semicap, job: str) -> None:
    for command in (("status", job), ("status", job, "--watch"), ("results", job, "--output", "ö x")):
        status, out, err = semicap(*command)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert "does not answer" not in err
        assert "there is " in err


def test_recover_rebuilds_what_the_broker_lost(
    semicap: Semicap,
    worker: InlineWorker,
    broker: RunningBroker,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEMICAP_REDIS_URL", broker.url)
    monkeypatch.setenv("SEMICAP_DATA_DIR", str(settings.data_dir))
    job = semicap("submit", "captions", str(photo_folder(tmp_path / "photos", good=3)))[1].strip()
    broker.flush()
    out = semicap("recover")[1]
    assert f"{job}: rebuilt" in out or json.loads(semicap("status", job)[1])["state"] == "queued"
    worker.do_all()
    assert json.loads(semicap("status", job)[1])["state"] == "succeeded"


def test_photos_and_labelled_ones_are_sent_for_fine_tuning_and_the_curve_is_told(
    semicap: Semicap, worker: InlineWorker, settings: Settings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    parts = JobParts.build(settings)
    base = ModelRegistry(parts.store, tmp_path / "cache").publish(tiny_checkpoint, origin="imported")
    photos = photo_folder(tmp_path / "photos", good=50)
    labelled = photo_folder(tmp_path / "labelled", good=2)
    (labelled / "metadata.jsonl").write_text('{"file_name": "0000.jpg", "text": "a dog"}\n')
    asked = ("--base", base.version, "--replay", str(labelled), "--setting", "steps=20", "--auto-activate")
    status, out, err = semicap("submit", "finetune", str(photos), *asked)
    assert status == 0, err
    job = json.loads(semicap("status", out.strip())[1])
    assert (job["kind"], job["base"], job["settings"]["steps"], job["auto_activate"]) == (
        "finetune", base.id, 20, True,
    )  # fmt: skip
    assert job["replay_dataset"] != job["dataset"]

    curve = ({"step": 20, "loss": 0.4, "clip_similarity": 0.61, "second_similarity": 0.47},)
    gate = {"passed": False, "checks": [], "reason": "refused: Repetition 65.30 (before 1.00, at most 3.00)"}
    made = ModelMade(id="tiny:abc", gate=gate)
    train(parts, job["id"], TrainingRecord(attempt=1, step=20, steps=20, curve=curve, model=made))
    worker.do_all()
    status, _, err = semicap("status", job["id"], "--watch")
    assert status == 0
    assert "step 20: loss 0.400, similarity 0.610, by the second scorer 0.470" in err
    assert "succeeded: tiny:abc; gate refused: Repetition 65.30" in err
    assert semicap("submit", "finetune", str(photos), "--setting", "step=20")[0] == 2
    parts.close()
