"""An experiment with toy arms: every one is trained, measured and shown; a second start repeats nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tiny import tiny_clip
from tests.training.conftest import SCENES
from training.config import Places
from training.data import Problems
from training.experiment import REPORT, read_experiment, run_experiment
from training.experiment_page import CURVE, PAGE
from training.report import read_report
from training.run import read_step
from training.toml_reader import TrainingConfigError
from training.unsupervised import build_unsupervised

PLAN = """
validation = "photos"
second_scorer = "second"
num_beams = 2
examples = 3
compared = ["A", "B"]
variants_of = "B"
curves = ["B", "cosine"]
findings = "What a person read in it."

[arms.A]
about = "stage 1"
step = "stage1"
seeds = 2

[arms.B]
about = "stage 2"
step = "stage2"
init = "A"
seeds = 2

[arms.cosine]
about = "no contrastive reward"
step = "stage2"
init = "A"
changes = ["reward.contrastive=0.0"]
"""
STAGE1 = """
stage = "supervised"
init = "start/checkpoint"
[data]
labelled = ["photos"]
max_labelled = 5
views = ["original"]
[loop]
max_steps = 2
batch_size = 4
"""
STAGE2 = """
stage = "unsupervised"
init = "start/checkpoint"
[data]
unlabelled = ["photos"]
labelled = ["photos"]
max_labelled = 5
disjoint = true
validation = "photos"
views = ["original"]
[reward]
contrastive = 0.1
[rollout]
samples = 2
max_tokens = 6
[evaluation]
second_scorer = "second"
[loop]
max_steps = 2
batch_size = 2
evaluate_every = 1
"""


@pytest.fixture
def recipe(tmp_path: Path, places: Places) -> Path:
    """The three files of a toy experiment; its second scorer lies among the runs."""
    tiny_clip(places.out.parent / "second", seed=5)
    return _write_recipe(tmp_path / "recipe", {})


def test_every_arm_is_trained_measured_and_shown(recipe: Path, places: Places) -> None:
    out = places.out.parent
    page = run_experiment(recipe, data=places.data, out=out)
    assert page == out / PAGE
    text = page.read_text()
    runs = ["A-0", "A-1", "B-0", "B-1", "cosine-0"]
    reports = {run: read_report(out / run / REPORT) for run in runs}
    assert {report.images for report in reports.values()} == {len(SCENES)}
    mean = (reports["B-0"].figures["clip_score"] + reports["B-1"].figures["clip_score"]) / 2
    row = next(line for line in text.splitlines() if line.startswith("| CLIPScore |"))
    assert f"{mean:.3f} ± ".replace("-", "\N{MINUS SIGN}") in row
    assert "What a person read in it." in text
    assert reports["A-0"].captions[0].caption in text
    assert (out / CURVE).stat().st_size > 5_000
    assert _initial(out, "B-1") == "A-1/model"
    assert reports["B-0"].version != reports["B-1"].version


def test_second_start_goes_on_where_the_first_was_cut(recipe: Path, places: Places) -> None:
    out = places.out.parent
    page = run_experiment(recipe, data=places.data, out=out).read_text()
    kept = (out / "A-0" / "model" / "model.safetensors").stat().st_mtime_ns
    (out / "B-1" / "finished.json").unlink()
    (out / "cosine-0" / REPORT).unlink()
    assert run_experiment(recipe, data=places.data, out=out).read_text() == page
    assert (out / "A-0" / "model" / "model.safetensors").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({'"reward.contrastive=0.0"': '"reward.contrastif=0.0"'}, "contrastif is not a setting"),
        ({'compared = ["A", "B"]': 'compared = ["A", "D"]'}, "compared names 'D', which is no arm"),
        ({"seeds = 2\n\n[arms.B]": "seeds = 1\n\n[arms.B]"}, "init is 'A', of which 1 runs come before it"),
    ],
)
def test_mistake_in_any_arm_is_found_before_the_first_is_trained(
    tmp_path: Path, places: Places, change: Mapping[str, str], message: str
) -> None:
    recipe = _write_recipe(tmp_path / "wrong", change)
    with pytest.raises(TrainingConfigError, match=message):
        run_experiment(recipe, data=places.data, out=places.out.parent)
    assert not (places.out.parent / "A-0").exists()


def test_the_repositorys_own_experiment_can_be_read() -> None:
    _, arms = read_experiment(Path(__file__).parents[2] / "training" / "recipes" / "experiment")
    assert arms["A"].seeds == arms["B"].seeds == arms["C"].seeds == 3


def test_disjoint_leaves_the_labelled_images_out(recipe: Path, places: Places) -> None:
    problems = Problems()
    _, together = read_step(recipe / "stage2.toml", ["data.disjoint=false"])
    _, apart = read_step(recipe / "stage2.toml")
    for config, images in ((together, len(SCENES)), (apart, len(SCENES) - 5)):
        stage = build_unsupervised(config, places, problems, device="cpu")  # type: ignore[arg-type]
        assert stage.items == images


def _write_recipe(folder: Path, changes: Mapping[str, str]) -> Path:
    folder.mkdir()
    plan = PLAN
    for old, new in changes.items():
        assert old in plan
        plan = plan.replace(old, new)
    for name, text in (("experiment", plan), ("stage1", STAGE1), ("stage2", STAGE2)):
        (folder / f"{name}.toml").write_text(text)
    return folder


def _initial(out: Path, run: str) -> str:
    return str(json.loads((out / run / "finished.json").read_text())["config"]["init"])
