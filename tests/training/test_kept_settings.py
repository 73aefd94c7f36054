"""Settings that were edited between two starts: refused, or named, never ignored in silence."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from training.config import Places, SupervisedConfig
from training.dry_run import dry_run
from training.kept_settings import (
    FINISHED,
    FREE_ON_RESUME,
    NEVER_DECISIVE,
    SETTINGS,
    changed_settings,
    setting_faults,
)
from training.run import run_step, run_steps
from training.state import ResumeError
from training.toml_reader import TrainingConfigError, config_from, dotted_keys

STEP: dict[str, Any] = {
    "init": "start/checkpoint",
    "data": {"labelled": ["photos"], "views": ["original"], "workers": 1},
    "optim": {"lr": 1e-3, "warmup_steps": 1},
    "loop": {"max_steps": 2, "batch_size": 4, "seed": 3},
}


def test_finished_step_is_skipped_with_its_settings_and_refused_with_others(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(places, _config())
    log = (places.out / "log.jsonl").read_text()
    _run(places, _config(loop={"device": "cpu", "save_every": 7}, data={"workers": 2}))
    assert "run: finished before, skipped" in capsys.readouterr().out
    edited = _config(optim={"lr": 1e-2}, loop={"max_steps": 5})
    with pytest.raises(TrainingConfigError) as caught:
        _run(places, edited)
    text = str(caught.value)
    assert "optim.lr was 0.001, is 0.01; loop.max_steps was 2, is 5" in text
    assert f"step run: {places.out} has finished with other settings" in text
    assert "delete the folder" in text
    assert dry_run("run", edited, places).faults == tuple(setting_faults(edited, places.out))
    assert (places.out / "log.jsonl").read_text() == log
    shutil.rmtree(places.out)
    _run(places, edited)
    assert _last_step(places) == 5


def test_resume_is_refused_with_settings_that_decide_its_course(places: Places) -> None:
    run_step(_config(), places, resume=False)
    (places.out / FINISHED).unlink()
    kept = (places.out / SETTINGS).read_text()
    edited = _config(loop={"batch_size": 2, "seed": 4}, optim={"lr": 1e-2})
    with pytest.raises(ResumeError) as caught:
        run_step(edited, places, resume=True)
    text = str(caught.value)
    for change in ("loop.batch_size was 4, is 2", "loop.seed was 3, is 4", "optim.lr was 0.001, is 0.01"):
        assert change in text
    with pytest.raises(TrainingConfigError, match="has begun with other settings"):
        _run(places, edited)
    assert (places.out / SETTINGS).read_text() == kept


def test_resume_to_more_steps_goes_on_and_names_the_change(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    run_step(_config(), places, resume=False)
    run_step(_config(loop={"max_steps": 4, "save_every": 1}), places, resume=True)
    printed = capsys.readouterr().out
    assert "goes on with other settings: loop.max_steps was 2, is 4; loop.save_every was 500, is 1" in printed
    assert _last_step(places) == 4
    assert json.loads((places.out / FINISHED).read_text())["config"]["loop"]["max_steps"] == 4


def test_second_start_without_resume_keeps_what_is_known_of_the_first(places: Places) -> None:
    run_step(_config(), places, resume=False)
    kept = [(places.out / name).read_text() for name in (SETTINGS, FINISHED)]
    with pytest.raises(ResumeError, match="add --resume"):
        run_step(_config(optim={"lr": 1e-2}), places, resume=False)
    assert [(places.out / name).read_text() for name in (SETTINGS, FINISHED)] == kept


def test_setting_that_is_newer_than_the_run_is_not_compared() -> None:
    kept = json.loads(json.dumps(asdict(_config())))
    del kept["captioning"], kept["lora"]
    kept["of_an_older_version"] = 1
    assert changed_settings(kept, replace(_config(), captioning=0.5), free=frozenset()) == []


def test_free_settings_are_settings() -> None:
    known = {"device", *dotted_keys(SupervisedConfig)}  # device: of the pseudo-captions
    assert known >= FREE_ON_RESUME > NEVER_DECISIVE


def _run(places: Places, config: SupervisedConfig) -> list[Path]:
    return run_steps([(places.out.name, config)], data=places.data, out=places.out.parent, source="recipe")


def _config(**changes: dict[str, Any]) -> SupervisedConfig:
    tables = {name: {**STEP[name], **changes.get(name, {})} for name in ("data", "optim", "loop")}
    return config_from(SupervisedConfig, {**STEP, **tables})


def _last_step(places: Places) -> int:
    lines = [json.loads(line) for line in (places.out / "log.jsonl").read_text().splitlines()]
    return max(int(line["step"]) for line in lines)
