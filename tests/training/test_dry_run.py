"""--dry-run: what a step would meet, all faults at once, nothing left behind."""

from pathlib import Path

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from training import cli
from training.config import Places, SupervisedConfig, UnsupervisedConfig
from training.data import Problems
from training.dry_run import activations, measure_need
from training.supervised import run_supervised
from training.toml_reader import config_from

SUPERVISED = """
stage = "supervised"
init = "start/checkpoint"
[data]
labelled = ["photos"]
validation = "photos"
views = ["original", "flip"]
[loop]
epochs = 3
batch_size = 4
best_by = "cider_d"
"""
UNSUPERVISED = """
stage = "unsupervised"
init = "1-labelled/model"
[data]
unlabelled = ["photos"]
"""
app = typer.Typer()
app.add_typer(cli.train_app, name="train")


def test_dry_run_counts_measures_and_leaves_nothing(places: Places, tmp_path: Path) -> None:
    before = sorted(places.out.parent.rglob("*"))
    code, output = _dry("supervised", SUPERVISED, places, tmp_path)
    assert code == 0, output
    assert "photos: 8 photos, 16 captions" in output
    assert "start/checkpoint: found" in output
    assert "gradients and optimizer" in output
    assert sorted(places.out.parent.rglob("*")) == before


def test_every_fault_is_told_at_once(places: Places, tmp_path: Path) -> None:
    config = SUPERVISED.replace('["photos"]', '["gone", "photos"]').replace(
        "start/checkpoint", "nowhere/model"
    )
    metadata = places.data / "photos" / "metadata.jsonl"
    metadata.write_text(metadata.read_text() + '{"file_name": "lost.png", "text": "x"}\n')
    code, output = _dry("supervised", config, places, tmp_path)
    assert code == 1
    assert f"error: init: {places.run('nowhere/model')} does not exist" in output
    assert f"error: data.labelled: {places.data}/gone/metadata.jsonl cannot be read" in output
    assert f"missing image: {metadata}:9 lost.png" in output
    assert "photos: 8 photos, 16 captions" in output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loop.best_by=cidre", "is 'cidre'; the evaluation's figures are"),
        ('frozen=["decodr."]', "no parameter starts with decodr."),
        ('data.views=["original", "upside-down"]', "it may hold original, flip"),
    ],
)
def test_setting_that_only_training_can_refuse_is_refused(
    places: Places, tmp_path: Path, setting: str, message: str
) -> None:
    code, output = _dry("supervised", SUPERVISED, places, tmp_path, "--set", setting)
    assert code == 1
    assert message in output
    assert "Traceback" not in output


def test_photos_that_cannot_be_read_are_named(places: Places, tmp_path: Path) -> None:
    (places.data / "photos" / "red.png").write_bytes(b"no picture")
    code, output = _dry("supervised", SUPERVISED, places, tmp_path, "--set", "loop.batch_size=8")
    assert code == 0
    assert "1 x unreadable image" in output
    assert str(places.data / "photos" / "red.png") in output


def test_recipe_knows_what_its_earlier_steps_will_make(places: Places, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "1-labelled.toml").write_text(SUPERVISED)
    (recipe / "2-unlabelled.toml").write_text(UNSUPERVISED)
    code, output = _call("recipe", str(recipe), "--data", str(places.data), "--out", str(places.out.parent))
    assert code == 0, output
    assert "1-labelled/model: made by step 1-labelled" in output
    (recipe / "1-labelled.toml").unlink()
    code, output = _call("recipe", str(recipe), "--data", str(places.data), "--out", str(places.out.parent))
    assert code == 1
    assert f"error: init: {places.run('1-labelled/model')} does not exist" in output


@pytest.mark.parametrize(("name", "code"), [("ViT-B-32", 0), ("hf-hub:owner/clip", 0), ("ViT-B-99", 1)])
def test_clip_from_the_hub_needs_no_earlier_step(
    places: Places, tmp_path: Path, name: str, code: int
) -> None:
    (tmp_path / "recipe").mkdir()
    config = SUPERVISED.replace('init = "start/checkpoint"', "") + f'[model]\nclip = "{name}"\n'
    (tmp_path / "recipe" / "1-labelled.toml").write_text(config)
    folders = ("--data", str(places.data), "--out", str(places.out.parent))
    found, output = _call("recipe", str(tmp_path / "recipe"), *folders)
    assert found == code, output
    assert ("from the hub or its cache" in output) == (code == 0)


def test_result_beside_the_folder_of_runs_is_found_before_that_is_made(places: Places) -> None:
    new = Places(places.data, places.out.parent / "new" / "run")
    assert new.run("../start/checkpoint") == places.run("start/checkpoint")


@pytest.mark.parametrize(
    ("batch_size", "course"), [(4, "6 of 4: 3 passes over 8"), (5, "3 of 5: 1.88 passes over 8")]
)
def test_steps_and_the_passes_that_they_are_are_told(
    places: Places, tmp_path: Path, batch_size: int, course: str
) -> None:
    batch = f"loop.batch_size={batch_size}"
    code, output = _dry("supervised", SUPERVISED, places, tmp_path, "--set", batch)
    assert code == 0, output
    assert course in output


def test_disjoint_that_leaves_no_photo_is_a_fault_though_a_batch_would_have_some(
    places: Places, tmp_path: Path
) -> None:
    config = UNSUPERVISED.replace("1-labelled/model", "start/checkpoint")
    config += 'labelled = ["photos"]\ndisjoint = true\n[loop]\nbatch_size = 4\n'
    code, output = _dry("unsupervised", config, places, tmp_path)
    assert code == 1
    assert "error: data.disjoint leaves none of 8 unlabelled photos" in output


def test_need_is_what_the_step_then_takes(places: Places) -> None:
    values = {
        "init": "start/checkpoint",
        "data": {"labelled": ["photos"], "views": ["original", "flip"]},
        "loop": {"epochs": 1, "batch_size": 4, "save_every": 1},
    }
    config = config_from(SupervisedConfig, values)
    need = measure_need(config, places, 8, Problems())
    run_supervised(config, places, Problems(), resume=False)
    cached = sum(file.stat().st_size for file in places.cache.rglob("*.npy"))
    assert need.features == pytest.approx(cached, rel=0.25)  # files of 64 bytes have a header of 128
    states = sum(file.stat().st_size for file in (places.out / "states").rglob("*") if file.is_file())
    assert need.states > states
    assert need.states == pytest.approx(1.5 * states, rel=0.5)


def test_stage_2_counts_its_frozen_reference(places: Places) -> None:
    values = {"init": "start/checkpoint", "data": {"unlabelled": ["photos"]}, "loop": {"batch_size": 4}}
    first = config_from(SupervisedConfig, {"init": "start/checkpoint", "data": {"labelled": ["photos"]}})
    second = config_from(UnsupervisedConfig, values)
    assert (
        measure_need(second, places, 8, Problems()).weights
        > measure_need(first, places, 8, Problems()).weights
    )


def test_activations_are_what_the_backward_pass_needs_and_no_weights() -> None:
    layer = nn.Linear(100, 50)
    inputs = torch.randn(8, 100)
    with activations() as kept:
        layer(inputs).relu().sum().backward()
    assert kept.bytes == 4 * (8 * 100 + 8 * 50)
    with activations() as kept, torch.no_grad():
        layer(inputs)
    assert kept.bytes == 0


def _dry(stage: str, config: str, places: Places, tmp_path: Path, *options: str) -> tuple[int, str]:
    file = tmp_path / "step.toml"
    file.write_text(config)
    return _call(stage, str(file), "--data", str(places.data), "--out", str(places.out), *options)


def _call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *arguments, "--dry-run"], env={"COLUMNS": "300"})
    return result.exit_code, result.output
