"""Training configurations: all mistakes at once, overrides, documented settings, recipes that can be read."""

from pathlib import Path

import pytest

from training.config import STAGES, SupervisedConfig, TextConfig, UnsupervisedConfig
from training.run import read_step
from training.toml_reader import TrainingConfigError, config_from, read_config, setting_lines

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"


def test_every_mistake_is_reported_at_once_by_its_dotted_key() -> None:
    values = {
        "optim": {"lr": 7.0, "weight_deacy": 0.1},
        "loop": {"epochs": "ten", "seed": -1},
        "modle": {},
        "model": {"decoder": {"layers": 1.5}},
    }
    with pytest.raises(TrainingConfigError) as caught:
        config_from(SupervisedConfig, values, source="my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: 6 mistakes")
    assert "optim.lr is 7.0; it must be from 0.0 to 1.0" in message
    assert "optim.weight_deacy is not a setting; did you mean optim.weight_decay?" in message
    assert "loop.epochs is 'ten'; it must be a number" in message
    assert "loop.seed is -1; it must be at least 0" in message
    assert "modle is not a setting; did you mean model?" in message
    assert "model.decoder.layers is 1.5; it must be a whole number" in message


def test_missing_required_setting_is_named_with_its_meaning() -> None:
    with pytest.raises(TrainingConfigError, match="init is missing: checkpoint to start from"):
        config_from(UnsupervisedConfig, {})


def test_true_is_not_a_number() -> None:
    with pytest.raises(TrainingConfigError, match=r"loop\.batch_size is True; it must be a whole number"):
        config_from(SupervisedConfig, {"loop": {"batch_size": True}})


def test_unknown_choice_names_the_choices() -> None:
    with pytest.raises(TrainingConfigError, match=r"rollout\.estimator is 'gumbel'; it must be 'gumbel-"):
        config_from(UnsupervisedConfig, {"init": "x", "rollout": {"estimator": "gumbel"}})


def test_settings_that_do_not_go_together_are_named_with_their_table() -> None:
    with pytest.raises(TrainingConfigError, match=r"rollout: baseline 'mean' .*samples must be at least 2"):
        config_from(UnsupervisedConfig, {"init": "x", "rollout": {"estimator": "reinforce", "samples": 1}})


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[optim]\nlr = 1e-3\n")
    overrides = [
        "optim.lr=1e-4",
        "loop.precision=bf16",
        'data.labelled=["a", "b"]',
        "model.mapping.kind=grid",
    ]
    config = read_config(SupervisedConfig, path, overrides)
    assert config.optim.lr == 1e-4
    assert config.loop.precision == "bf16"
    assert config.data.labelled == ("a", "b")
    assert config.model.mapping.kind == "grid"


def test_override_without_value_says_how_one_looks(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("")
    with pytest.raises(TrainingConfigError, match=r"optim\.lr=1e-4"):
        read_config(SupervisedConfig, path, ["optim.lr"])


def test_stage_keeps_its_own_defaults_for_a_table_that_sets_something_else() -> None:
    config = config_from(TextConfig, {"optim": {"warmup_steps": 5}})
    assert config.optim.lr == TextConfig().optim.lr == 1e-3


def test_file_for_another_stage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('stage = "contrastive"\n')
    with pytest.raises(TrainingConfigError, match="stage is 'contrastive'; it must be 'supervised'"):
        read_step(path, expected="supervised")


def test_broken_toml_and_missing_file_are_one_message(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("lr = = 3")
    with pytest.raises(TrainingConfigError, match="not valid TOML"):
        read_config(SupervisedConfig, path)
    with pytest.raises(TrainingConfigError, match="cannot be read"):
        read_config(SupervisedConfig, tmp_path / "none.toml")


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_documented(stage: str) -> None:
    ours = [line for line in setting_lines(STAGES[stage]) if not line.key.startswith("model.mapping.")]
    assert [line.key for line in ours if not line.doc] == []


@pytest.mark.parametrize(
    "recipe",
    sorted(set(RECIPES.rglob("*.toml")) - set(RECIPES.rglob("experiment.toml"))),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_recipe_can_be_read(recipe: Path) -> None:
    stage, config = read_step(recipe)
    assert isinstance(config, STAGES[stage])
