"""A run from photos to a published version, on a tiny model of the real architecture."""

import json
from pathlib import Path

import pytest

from models.clip_folder import ClipError
from models.manifest import CheckpointError
from service.finetuning.data import NotEnoughPhotosError
from service.finetuning.gate_limits import GateLimits
from service.finetuning.process import main, run
from service.finetuning.task import Ending, RunFolder
from tests.service import pictures
from tests.service.finetuning.runs import photo_dataset, published, registry_of, store_of, task_on
from tests.tiny import tiny_clip
from training.loop import TrainingDivergedError
from training.state import states


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_run_publishes_a_version_with_report_and_parent(
    tmp_path: Path, folder: RunFolder, tiny_checkpoint: Path
) -> None:
    base = published(tmp_path, tiny_checkpoint)
    broken = {
        "broken.jpg": pictures.truncated_jpeg(pictures.cat()),
        "again.jpg": pictures.photos(1, edge=40)[0],
    }
    dataset = photo_dataset(store_of(tmp_path), 60, others=broken)
    tiny_clip(tmp_path / "second", seed=7)
    task = task_on(tmp_path, dataset, base, second_scorer=str(tmp_path / "second"))
    ending = run(task, folder)

    registry = registry_of(tmp_path)
    made = registry.find(ending.model or "")
    assert (made.origin, made.parent, made.job, made.stage) == (
        "finetuned",
        base.version,
        task.job,
        "unsupervised",
    )
    assert made.gate == ending.gate
    assert made.gate["passed"]
    assert made.id != base.id
    names = {check["name"] for check in made.gate["checks"]}
    assert {"second_clip_score", "second_r@10", "repetition", "length_mean", "distinct_captions"} <= names
    report = json.loads(registry.report(made) or b"")
    assert report["data"] | {"fingerprint": ""} == {
        "fingerprint": "", "num_train": 40, "num_held_out": 20, "num_labelled": 0,
    }  # fmt: skip
    assert report["settings"]["steps"] == 4
    assert [step for step, _ in report["losses"]] == [1, 2, 3, 4]
    assert "clip_similarity" in report["held_out"]["after"]
    assert "second_clip_similarity" in report["held_out"]["before"]
    assert all(one["file_name"].startswith("album/") for one in report["captions"])
    page = (registry.report_html(made) or b"").decode()
    assert "The gate: passed" in page
    assert "data:image/jpeg" in page
    assert base.id in registry.card(made)
    assert registry.active() is None

    items = [json.loads(line) for line in folder.items.read_text().splitlines()]
    outcomes = {one["file_name"]: one["outcome"] for one in items}
    assert (outcomes["broken.jpg"], outcomes["again.jpg"]) == ("failed", "skipped")
    assert list(outcomes.values()).count("used") == 60


@pytest.mark.parametrize("stage", ["base", "second scorer", "training"])
def test_reason_that_callers_read_names_no_folder_of_the_worker(
    stage: str,
    tmp_path: Path,
    folder: RunFolder,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> Ending:
        if stage == "base":
            raise CheckpointError("is damaged", tmp_path / "private place" / "model.safetensors")
        if stage == "training":
            raise TrainingDivergedError(f"the loss is nan; the last good state is {folder.training}/states/9")
        raise ClipError(f"{tmp_path}/private place has no weights")

    monkeypatch.setattr("service.finetuning.process.run", fail)
    monkeypatch.setattr("service.finetuning.process.signal.signal", lambda *_: None)
    base = published(tmp_path, tiny_checkpoint)
    task_on(tmp_path, photo_dataset(store_of(tmp_path), 1), base).write(folder.task)
    assert main(folder.root) == 0
    told = Ending.read(folder.ending).error or ""
    assert told
    assert str(tmp_path) not in told
    assert "private" not in told
    assert str(tmp_path) in capsys.readouterr().err


def test_labelled_photos_are_replayed_and_measured(
    tmp_path: Path, folder: RunFolder, tiny_checkpoint: Path
) -> None:
    base = published(tmp_path, tiny_checkpoint)
    store = store_of(tmp_path)
    labelled = photo_dataset(store, 100, captioned=True)
    task = task_on(tmp_path, photo_dataset(store, 60), base, replay_dataset=labelled.id, auto_activate=True)
    ending = run(task, folder)
    report = json.loads(registry_of(tmp_path).report(registry_of(tmp_path).find(ending.model or "")) or b"")
    assert report["data"]["num_labelled"] == 80, "held-out photos are not replayed"
    assert report["labelled"]["photos"] == 20
    assert "cider_d" in report["labelled"]["after"]
    assert "cider_d" in {check["name"] for check in ending.gate["checks"]}
    assert "replay" in (folder.training / "log.jsonl").read_text()
    active = registry_of(tmp_path).active()
    assert ending.is_activated
    assert active is not None
    assert active.model == ending.model


def test_refused_version_is_kept_and_not_activated(
    tmp_path: Path, folder: RunFolder, tiny_checkpoint: Path
) -> None:
    base = published(tmp_path, tiny_checkpoint)
    limits = GateLimits(repetition_points=-1000.0)
    task = task_on(tmp_path, photo_dataset(store_of(tmp_path), 60), base, gate=limits, auto_activate=True)
    ending = run(task, folder)
    assert not ending.is_activated
    assert not ending.gate["passed"]
    assert "Repetition" in ending.gate["reason"]
    assert "before" in ending.gate["reason"]
    assert registry_of(tmp_path).active() is None
    assert registry_of(tmp_path).find(ending.model or "").gate == ending.gate


def test_too_few_photos_end_it_with_a_count(tmp_path: Path, folder: RunFolder, tiny_checkpoint: Path) -> None:
    dataset = photo_dataset(store_of(tmp_path), 49, others={"a.jpg": b"\xff\xd8\xff", "b.jpg": b"no photo"})
    with pytest.raises(
        NotEnoughPhotosError, match=r"49 different photos can be used, and a run needs 50.* 2 cannot"
    ):
        run(task_on(tmp_path, dataset, published(tmp_path, tiny_checkpoint)), folder)
    assert len(folder.items.read_text().splitlines()) == 51


def test_run_goes_on_from_its_state_but_not_with_other_photos(
    tmp_path: Path, folder: RunFolder, tiny_checkpoint: Path
) -> None:
    base = published(tmp_path, tiny_checkpoint)
    store = store_of(tmp_path)
    task = task_on(tmp_path, photo_dataset(store, 60), base)
    first = run(task, folder)
    log = (folder.training / "log.jsonl").read_text()
    assert states(folder.training / "states")
    again = run(task, folder)
    assert again.model == first.model
    assert [line for line in log.splitlines() if '"loss"' in line] == [
        line for line in (folder.training / "log.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    other = run(task_on(tmp_path, photo_dataset(store, 70), base), folder)
    assert other.model != first.model
