"""The mean of several checkpoints' weights is a checkpoint that captions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_captioner, save_captioner
from models.manifest import Provenance, read_manifest
from tests.tiny import tiny_checkpoint
from training.averaging import run_average
from training.config import AverageConfig, Places
from training.run import run_recipe
from training.toml_reader import TrainingConfigError

CONFIG = AverageConfig(checkpoints=("start/checkpoint", "other/model"), stored_dtype="float32")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    captioner = load_captioner(folder)
    return {
        f"{part}.{name}": value
        for part in ("mapping", "decoder")
        for name, value in getattr(captioner, part).state_dict().items()
    }


@pytest.fixture
def two(places: Places) -> Places:
    """Another checkpoint beside "start/checkpoint", whose weights are moved at random."""
    start = places.run("start/checkpoint")
    captioner = load_captioner(start)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*captioner.mapping.parameters(), *captioner.decoder.parameters()]:
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    save_captioner(
        captioner,
        places.run("other/model"),
        provenance=Provenance("tiny", "unsupervised", 7, read_manifest(start).version),
        card="",
        clip_folder=start / "clip",
    )
    return places


def test_weights_are_the_mean_and_the_last_checkpoint_is_the_parent(two: Places) -> None:
    folder = run_average(CONFIG, two)
    one, other, mean = map(weights, (two.run("start/checkpoint"), two.run("other/model"), folder))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1
    for name, value in mean.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)
    written, last = read_manifest(folder), read_manifest(two.run("other/model"))
    assert written.provenance == Provenance("tiny", "average", 0, last.version)
    assert (folder / "clip" / "open_clip_model.safetensors").is_file()


def test_checkpoint_named_twice_counts_twice(two: Places) -> None:
    folder = run_average(replace(CONFIG, checkpoints=("other/model", *CONFIG.checkpoints)), two)
    one, other, mean = map(weights, (two.run("start/checkpoint"), two.run("other/model"), folder))
    for name, value in mean.items():
        torch.testing.assert_close(value, (one[name] + 2 * other[name]) / 3)


def test_recipe_averages_what_its_steps_made(two: Places, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    text = 'stage = "average"\ncheckpoints = ["start/checkpoint", "other/model"]\n'
    (recipe / "9-average.toml").write_text(text)
    assert run_recipe(recipe, data=two.data, out=two.out.parent) == [two.run("9-average/model")]
    assert read_manifest(two.run("9-average/model")).provenance.stage == "average"


def test_checkpoints_of_other_networks_are_refused_by_name(places: Places, tmp_path: Path) -> None:
    tiny_checkpoint(places.run("other"), seed=8)
    config = replace(CONFIG, checkpoints=("start/checkpoint", "other/checkpoint"))
    with pytest.raises(TrainingConfigError, match="start/checkpoint has another CLIP than other/checkpoint"):
        run_average(config, places)
    assert not places.out.exists()
