"""The last step of a recipe: both stages in one card, a folder that loads, nothing lost on failure."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from models.checkpoint import load_captioner, save_captioner
from models.manifest import Provenance, read_manifest
from tests.tiny import tiny_clip
from training import cli
from training.config import Places, ReleaseConfig
from training.disk import WriteError
from training.release import run_release

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ReleaseConfig(
    checkpoints=("start/checkpoint", "second/model"),
    validation="photos",
    num_beams=2,
    about="A *tiny* model.",
)
RECIPE = """
stage = "release"
checkpoints = ["start/checkpoint", "second/model"]
validation = "photos"
"""


@pytest.fixture
def stages(places: Places) -> Places:
    """A stage-1 checkpoint at "start/checkpoint", one of stage 2 at "second/model"."""
    places.out.mkdir()
    first = places.run("start/checkpoint")
    save_captioner(
        load_captioner(first),
        places.run("second/model"),
        provenance=Provenance("tiny", "unsupervised", 7, read_manifest(first).version),
        card="# written by the stage\n",
        clip_folder=first / "clip",
    )
    return places


def test_card_has_a_column_for_each_stage_and_names_scorer_size_and_photos(stages: Places) -> None:
    folder = run_release(CONFIG, stages)
    card = (folder / "README.md").read_text()
    captioner = load_captioner(folder)
    assert "A *tiny* model." in card
    assert f"own scorer, {captioner.clip.name} ({captioner.clip.revision})" in card
    assert f"{sum(file.stat().st_size for file in folder.rglob('*.safetensors')) / 1e6:.1f} MB" in card
    assert "8 validation photos (photos), never trained on; beam of 2" in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert table[0] == "| | start | second |"
    reports = [json.loads((stages.out / f"{stage}.json").read_text()) for stage in ("start", "second")]
    expected = " | ".join(f"{report['figures']['clip_score']:.3f}" for report in reports)
    assert f"| CLIPScore | {expected} |" in table
    assert {"CIDEr-D", "BLEU-4", "R@1"} <= {line.split(" | ")[0][2:] for line in table}


def test_second_scorer_is_named_and_has_rows_of_its_own(stages: Places) -> None:
    tiny_clip(stages.run("other"), seed=5)
    card = (run_release(replace(CONFIG, second_scorer="other"), stages) / "README.md").read_text()
    report = json.loads((stages.out / "second.json").read_text())
    assert f"The second scorer, {report['second_scorer']}, was in no loss." in card
    assert "tiny" in report["second_scorer"]
    row = next(line for line in card.splitlines() if line.startswith("| CLIPScore by the second scorer |"))
    assert row.endswith(f"| {report['figures']['second_clip_score']:.3f} |")


def test_released_folder_is_the_last_checkpoint_and_loads(stages: Places) -> None:
    folder = run_release(CONFIG, stages)
    assert read_manifest(folder) == read_manifest(stages.run("second/model"))
    assert load_captioner(folder).config.max_tokens == 12
    assert sorted(path.name for path in stages.out.iterdir()) == [
        "model",
        "second.json",
        "start.json",
    ]


def test_missing_checkpoint_is_one_line_before_anything_is_measured(places: Places, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "1-release.toml").write_text(RECIPE)
    app = typer.Typer()
    app.add_typer(cli.train_app, name="train")
    arguments = ["train", "recipe", str(recipe), "--data", str(places.data), "--out", str(places.out.parent)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    missing = f"{places.run('second/model')} does not exist, and no earlier step makes it"
    assert result.output.strip().endswith(f"step 1-release: checkpoints: {missing}")
    assert not places.cache.exists()


def test_failed_copy_leaves_the_older_release(stages: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_release(CONFIG, stages)
    before = (folder / "README.md").read_text()

    def fails(*arguments: object, **options: object) -> None:
        Path("/dev/full").write_text("x")

    monkeypatch.setattr(shutil, "copytree", fails)
    with pytest.raises(WriteError, match="could not be written"):
        run_release(CONFIG, stages)
    assert (folder / "README.md").read_text() == before


@pytest.mark.parametrize("is_released", [True, False])
def test_make_default_model_replaces_the_old_model_or_leaves_it(tmp_path: Path, is_released: bool) -> None:
    """The Makefile's own lines, with a training command that does nothing."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for name in (
        "requirements.lock",
        "pyproject.toml",
        ".venv/bin/uv",
        ".venv/bin/semicap",
        ".venv/.installed",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/semicap").chmod(0o755)
    default, made = tmp_path / "models/pretrained/default", tmp_path / "runs/default/10-release/model"
    default.mkdir(parents=True)
    (default / "README.md").write_text("old")
    if is_released:
        made.mkdir(parents=True)
        (made / "README.md").write_text("new")
    done = subprocess.run(
        ["make", "default-model", "DATA=photos"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode == 0) == is_released, done.stderr
    assert (default / "README.md").read_text() == ("new" if is_released else "old")
    assert [path.name for path in default.parent.iterdir()] == ["default"]
