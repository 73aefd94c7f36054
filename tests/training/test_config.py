"""Training configurations: all mistakes at once, overrides, documented settings, recipes that can be read."""

from pathlib import Path
from typing import Any

import pytest

from training.config import (
    JointConfig,
    PseudoConfig,
    SupervisedConfig,
    TextConfig,
    TokenizerConfig,
    UnsupervisedConfig,
)
from training.run import read_step
from training.stages import STAGES
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


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (UnsupervisedConfig, {"rollout": {"estimator": "reinforce", "samples": 1}}),
        (UnsupervisedConfig, {"rollout": {"samples": 1}, "reward": {"replay_cider": 0.1}}),
        (SupervisedConfig, {"rollout": {"samples": 1}, "cider": 0.5}),
    ],
)
def test_a_sample_without_another_to_compare_it_with_is_refused_with_all_mistakes(
    kind: type[Any], values: dict[str, Any]
) -> None:
    with pytest.raises(TrainingConfigError) as caught:
        config_from(kind, {"init": "x", "optim": {"lr": 2.0}, **values})
    assert len(caught.value.mistakes) == 2
    assert "optim.lr is 2.0" in str(caught.value)
    assert "rollout.samples must be at least 2: REINFORCE with baseline 'mean'" in str(caught.value)


def test_one_sample_is_enough_against_the_greedy_caption() -> None:
    rollout = {"samples": 1, "baseline": "greedy"}
    assert config_from(SupervisedConfig, {"cider": 0.5, "rollout": rollout}).rollout.samples == 1


def test_wrong_setting_is_not_told_again_by_what_does_not_go_with_its_default() -> None:
    values = {"init": "x", "text": {"weight": 1.0}, "data": {"labelled": ["a"], "text": "captions.jsonl"}}
    with pytest.raises(TrainingConfigError) as caught:
        config_from(JointConfig, values)
    assert [mistake.split()[0] for mistake in caught.value.mistakes] == ["data.text"]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (TokenizerConfig, "data.max_labelled", 5),
        (TextConfig, "data.max_labelled", 5),
        (TextConfig, "data.validation", "photos"),
        (TextConfig, "loop.evaluate_every", 10),
        (JointConfig, "evaluation.second_scorer", "nonexistent"),
        (JointConfig, "data.views", ["bogus"]),
        (JointConfig, "data.disjoint", True),
        (PseudoConfig, "data.labelled", ["photos"]),
        (SupervisedConfig, "data.unlabelled", ["photos"]),
        (SupervisedConfig, "rollout.gumbel_tau", 0.5),
        (UnsupervisedConfig, "data.text", ["captions.jsonl"]),
    ],
)
def test_setting_that_the_stage_does_not_read_is_refused_with_all_mistakes(
    kind: type[Any], key: str, value: object
) -> None:
    table, name = key.split(".")
    needed: dict[str, Any] = {"init": "x"} if kind in (JointConfig, UnsupervisedConfig) else {}
    needed |= {"clip": "x"} if kind is PseudoConfig else {}
    needed |= {"data": {"labelled": ["photos"]}} if kind is TokenizerConfig else {}
    with pytest.raises(TrainingConfigError) as caught:
        config_from(kind, {**needed, "unknown": 1, table: {**needed.get(table, {}), name: value}})
    assert len(caught.value.mistakes) == 2
    assert f"{key} is " in str(caught.value)
    assert "nothing in this stage reads it" in str(caught.value)
    assert key not in [line.key for line in setting_lines(kind)]


def test_setting_that_the_stage_does_not_read_may_have_its_default() -> None:
    values = {"init": "x", "data": {"views": ["original", "flip"], "disjoint": False}}
    assert config_from(JointConfig, values).data == JointConfig(init="x").data


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("tokenizer", {}, "data.text and data.labelled name nothing to learn from"),
        ("text", {"captioning": 0, "contrastive": 0}, "both 0: nothing would be learnt"),
        (
            "joint",
            {"init": "x", "captioning": 0, "contrastive": 0},
            "nothing would be learnt from the photos",
        ),
        (
            "joint",
            {
                "init": "x",
                "data": {"text": ["t"]},
                "text": {"weight": 1, "captioning": 0, "contrastive": 0},
            },
            r"text\.weight is above 0, and captioning and contrastive are both 0",
        ),
        ("supervised", {"captioning": 0}, "captioning and cider are both 0"),
        ("average", {"checkpoints": []}, "checkpoints names nothing to average"),
        ("release", {"checkpoints": [], "validation": "v"}, "checkpoints names nothing to release"),
    ],
)
def test_step_with_nothing_to_do_is_refused(stage: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message):
        config_from(STAGES[stage].config, values)


def test_patience_without_a_figure_is_refused() -> None:
    with pytest.raises(TrainingConfigError, match=r"loop\.patience is 3, which does nothing without"):
        config_from(SupervisedConfig, {"loop": {"patience": 3}})


def test_settings_are_listed_with_the_stages_own_defaults() -> None:
    listed = {line.key: line.default for line in setting_lines(TextConfig)}
    assert listed["optim.lr"] == 1e-3
    assert listed["loop.batch_size"] == 256


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
    ours = [line for line in setting_lines(STAGES[stage].config) if not line.key.startswith("model.mapping.")]
    assert [line.key for line in ours if not line.doc] == []


@pytest.mark.parametrize(
    "recipe",
    sorted(set(RECIPES.rglob("*.toml")) - set(RECIPES.rglob("experiment.toml"))),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_recipe_can_be_read(recipe: Path) -> None:
    stage, config = read_step(recipe)
    assert isinstance(config, STAGES[stage].config)
