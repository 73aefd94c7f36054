"""semicap train as a person calls it: results, recipes that go on, errors in one line."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.tiny import tiny_checkpoint
from tests.training.conftest import write_scenes
from training import cli, run
from training.config import Places
from training.stages import STAGES

SUPERVISED = """
stage = "supervised"
init = "start/checkpoint"
[data]
labelled = ["photos"]
validation = "photos"
views = ["original"]
[loop]
epochs = 1
batch_size = 4
"""
TOKENIZER = """
stage = "tokenizer"
num_merges = 20
[data]
labelled = ["photos"]
"""
app = typer.Typer()
app.add_typer(cli.train_app, name="train")


def test_a_step_is_trained_and_its_result_named(places: Places, tmp_path: Path) -> None:
    code, output = _call("train", "supervised", _file(tmp_path, SUPERVISED), *_folders(places))
    assert code == 0
    assert f"supervised finished: {places.out / 'model'}" in output
    assert (places.out / "model" / "config.json").is_file()


def test_every_kind_of_step_has_a_command(places: Places, tmp_path: Path) -> None:
    config = _file(tmp_path, 'checkpoints = ["start/checkpoint", "start/checkpoint"]\n')
    code, output = _call("train", "average", config, *_folders(places), "--dry-run")
    assert (code, places.out.exists()) == (0, False), output
    code, output = _call("train", "average", config, *_folders(places))
    assert code == 0, output
    assert f"average finished: {places.out / 'model'}" in output
    for stage in STAGES:
        assert _call("train", stage, "--help")[0] == 0


def test_mistakes_in_a_configuration_come_without_a_traceback(places: Places, tmp_path: Path) -> None:
    config = _file(tmp_path, SUPERVISED)
    overrides = ["--set", "optim.lr=9", "--set", "loop.epoch=2", "--set", "data.views=3"]
    code, output = _call("train", "supervised", config, *_folders(places), *overrides)
    assert code == 1
    assert "3 mistakes" in output
    assert "did you mean loop.epochs?" in output
    assert "Traceback" not in output


def test_missing_data_is_one_line(places: Places, tmp_path: Path) -> None:
    config = _file(tmp_path, SUPERVISED)
    code, output = _call("train", "supervised", config, *_folders(places), "--set", 'data.labelled=["gone"]')
    assert code == 1
    assert (
        output.strip()
        == f"error: {places.data}/gone/metadata.jsonl cannot be read: No such file or directory"
    )


def test_starting_a_run_twice_says_how_to_go_on(places: Places, tmp_path: Path) -> None:
    config = _file(tmp_path, SUPERVISED)
    assert _call("train", "supervised", config, *_folders(places))[0] == 0
    code, output = _call("train", "supervised", config, *_folders(places))
    assert code == 1
    assert "add --resume" in output
    assert _call("train", "supervised", config, *_folders(places), "--resume")[0] == 0


def test_recipe_runs_its_steps_in_order_and_skips_finished_ones(tmp_path: Path) -> None:
    recipe, out = _recipe(tmp_path)
    code, _ = _call("train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out))
    assert code == 0
    assert (out / "1-words" / "bpe.txt.gz").is_file()
    assert (out / "2-captions" / "model" / "config.json").is_file()
    code, output = _call("train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out))
    assert code == 0
    assert "1-words: finished before, skipped" in output
    assert "2-captions: finished before, skipped" in output


def test_tenth_step_comes_after_the_second(tmp_path: Path) -> None:
    recipe, out = _recipe(tmp_path)
    (recipe / "2-captions.toml").rename(recipe / "10-captions.toml")
    (recipe / "1-words.toml").rename(recipe / "2-words.toml")
    text = (recipe / "10-captions.toml").read_text()
    (recipe / "10-captions.toml").write_text(text.replace("1-words", "2-words"))
    code, output = _call("train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out))
    assert code == 0, output
    assert (out / "10-captions" / "model" / "config.json").is_file()


def test_recipe_cut_in_its_second_step_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = _recipe(tmp_path)
    steps: list[str] = []
    original = run.run_step

    def cut_once(config: object, places: Places, *, resume: bool) -> Path:
        steps.append(places.out.name)
        if steps == ["1-words", "2-captions"]:
            raise KeyboardInterrupt
        return original(config, places, resume=resume)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "run_step", cut_once)
    arguments = ["train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out)]
    assert _call(*arguments)[0] == 130
    assert _call(*arguments)[0] == 0
    assert steps == ["1-words", "2-captions", "2-captions"]


def test_mistake_in_a_late_step_is_found_before_the_first_one_runs(tmp_path: Path) -> None:
    recipe, out = _recipe(tmp_path)
    (recipe / "2-captions.toml").write_text(SUPERVISED + "unknown = 1\n")
    code, output = _call("train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out))
    assert code == 1
    assert "loop.unknown is not a setting" in output
    assert not (out / "1-words").exists()


def test_result_that_no_step_makes_is_found_before_the_first_one_runs(tmp_path: Path) -> None:
    recipe, out = _recipe(tmp_path)
    (recipe / "3-card.toml").write_text(
        'stage = "release"\nvalidation = "photos"\n'
        'checkpoints = ["2-captions/model"]\nsecond_scorer = "judge"\n'
    )
    code, output = _call("train", "recipe", str(recipe), "--data", str(tmp_path / "data"), "--out", str(out))
    assert code == 1
    assert "step 3-card: second_scorer: " in output
    assert "does not exist, and no earlier step makes it" in output
    assert not (out / "1-words").exists()


def test_settings_are_listed_with_their_meaning() -> None:
    code, output = _call("train", "settings", "unsupervised")
    assert code == 0
    assert "rollout.gumbel_tau" in output
    assert "relaxation temperature" in output


def _call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def _folders(places: Places) -> list[str]:
    return ["--data", str(places.data), "--out", str(places.out)]


def _file(folder: Path, text: str) -> str:
    path = folder / "step.toml"
    path.write_text(text)
    return str(path)


def _recipe(folder: Path) -> tuple[Path, Path]:
    """Two steps, the second starting from a checkpoint among the runs."""
    write_scenes(folder / "data" / "photos")
    tiny_checkpoint(folder / "runs" / "start")
    recipe = folder / "recipe"
    recipe.mkdir()
    (recipe / "1-words.toml").write_text(TOKENIZER)
    (recipe / "2-captions.toml").write_text(SUPERVISED)
    return recipe, folder / "runs"
