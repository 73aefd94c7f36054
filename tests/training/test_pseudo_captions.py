"""The step that gives photos captions of other photos, from its file to a step that trains on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.training.conftest import SCENES
from training import cli
from training.config import Places
from training.data import Problems
from training.sources import read_captioned_sources, read_image_sources

GOLDEN_RETRIEVER, TABBY = 207, 281
PSEUDO = """
stage = "pseudo"
clip = "start/checkpoint/clip"
classifier = "classifier.safetensors"
min_captions = 1
captions_per_image = 2
[data]
unlabelled = ["photos"]
text = ["text.jsonl"]
"""
SUPERVISED = """
stage = "supervised"
init = "start/checkpoint"
[data]
labelled = ["photos", "runs:1-pseudo"]
views = ["original"]
[loop]
max_steps = 1
batch_size = 4
"""
app = typer.Typer()
app.add_typer(cli.app)


@pytest.fixture
def step(places: Places) -> Places:
    """A data root with captions and a classifier that sees a dog in every photo."""
    save_classifier(places.data / "classifier.safetensors", sure_of=GOLDEN_RETRIEVER)
    lines = [{"image": name, "text": caption} for name, (_, caption) in SCENES.items()]
    lines += [{"image": "other.png", "text": "a man in a boat"}, {"text": "dogs"}]
    (places.data / "text.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return replace(places, out=places.run("1-pseudo"))


def save_classifier(path: Path, *, sure_of: int) -> None:
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    weights["classifier.1.weight"].zero_()
    weights["classifier.1.bias"] = 20.0 * torch.eye(1000)[sure_of]
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def test_photos_get_captions_of_others_that_name_what_is_seen(step: Places, tmp_path: Path) -> None:
    code, output = _train(step, tmp_path)
    assert code == 0, output
    assert "8 of 8 photos have pseudo-captions: dog 8" in output
    for line in (step.out / "metadata.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert len(record["captions"]) == 2
        assert all("dog" in caption for caption in record["captions"])
        name = record["file_name"].removeprefix("photos/")
        assert SCENES[name][1] not in record["captions"]


@pytest.mark.parametrize("root", ["data", "link", "."])
def test_photos_of_a_caption_file_are_named_from_the_data_root(
    step: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    images = [{"id": number, "file_name": name} for number, name in enumerate(SCENES)]
    annotations = [{"image_id": number, "caption": "a thing"} for number in range(len(SCENES))]
    coco = step.data / "captions_photos.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(step.data if root == "." else tmp_path)
    pseudo = PSEUDO.replace('["photos"]', '["captions_photos.json"]')
    code, output = _train(replace(step, data=Path(root)), tmp_path, pseudo=pseudo)
    assert code == 0, output
    names = [json.loads(line)["file_name"] for line in (step.out / "metadata.jsonl").read_text().splitlines()]
    assert names == [f"photos/{name}" for name in SCENES]


def test_summary_counts_photos_and_things(step: Places, tmp_path: Path) -> None:
    assert _train(step, tmp_path)[0] == 0
    summary = json.loads((step.out / "summary.json").read_text())
    assert summary["photos"] == summary["captioned"] == 8
    assert summary["captions"] == 16
    assert summary["things"] == {"dog": 8}
    assert summary["mean_confidence"] == pytest.approx(1.0, abs=1e-3)


def test_photo_that_cannot_be_read_is_left_out_and_named(step: Places, tmp_path: Path) -> None:
    (step.data / "photos" / "red.png").write_bytes(b"no picture")
    code, output = _train(step, tmp_path)
    assert code == 0
    assert "7 of 7 photos have pseudo-captions" in output
    assert "unreadable image: " in output
    assert len((step.out / "metadata.jsonl").read_text().splitlines()) == 7


def test_what_no_caption_names_ends_the_step_with_one_line(step: Places, tmp_path: Path) -> None:
    save_classifier(step.data / "classifier.safetensors", sure_of=340)  # zebra
    code, output = _train(step, tmp_path)
    assert code == 1
    assert "sure of nothing in 8 photos that enough captions name; lower min_confidence" in output
    assert not (step.out / "metadata.jsonl").exists()


def test_weights_that_are_no_classifier_are_refused(step: Places, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, step.data / "classifier.safetensors")
    code, output = _train(step, tmp_path)
    assert code == 1
    assert "classifier.safetensors is no ImageNet classifier" in output


def test_later_steps_of_a_recipe_train_on_the_result(step: Places, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "1-pseudo.toml").write_text(PSEUDO)
    (recipe / "2-labelled.toml").write_text(SUPERVISED)
    folders = ["--data", str(step.data), "--out", str(step.out.parent)]
    code, output = _call("recipe", str(recipe), *folders, "--dry-run")
    assert code == 0, output
    assert "1-pseudo: made by step 1-pseudo" in output
    code, output = _call("recipe", str(recipe), *folders)
    assert code == 0, output
    code, output = _call("recipe", str(recipe), *folders, "--dry-run")
    assert code == 0, output
    assert "runs:1-pseudo: 8 photos, 16 captions" in output


def test_result_that_no_step_makes_is_a_fault(places: Places, tmp_path: Path) -> None:
    file = tmp_path / "step.toml"
    file.write_text(SUPERVISED)
    folders = ["--data", str(places.data), "--out", str(places.out)]
    code, output = _call("supervised", str(file), *folders, "--dry-run")
    assert code == 1
    assert f"error: data.labelled: {places.run('1-pseudo')} does not exist, and no earlier step" in output


def test_dry_run_names_what_is_missing(places: Places, tmp_path: Path) -> None:
    code, output = _train(places, tmp_path, "--dry-run")
    assert code == 1
    assert "error: classifier: " in output
    assert "error: data.text: " in output
    assert "photos: 8 photos" in output


def test_photos_of_a_result_are_found_from_the_data_root(step: Places, tmp_path: Path) -> None:
    assert _train(step, tmp_path)[0] == 0
    sources = step.sources(["photos", "runs:1-pseudo"])
    captioned = read_captioned_sources(sources, Problems())
    assert len(captioned) == 16
    assert captioned.images.ids[8].startswith("1-pseudo/photos/")
    assert read_image_sources(sources[1:], Problems()).files[0].stat().st_size


def _train(places: Places, folder: Path, *options: str, pseudo: str = PSEUDO) -> tuple[int, str]:
    file = folder / "pseudo.toml"
    file.write_text(pseudo)
    return _call("pseudo", str(file), "--data", str(places.data), "--out", str(places.out), *options)


def _call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *arguments])
    return result.exit_code, result.output
