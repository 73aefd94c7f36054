"""The settings that a run's folder was made with, and what of them may be others when it is started again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from training import distributed
from training.config import StageConfig
from training.disk import replace_text
from training.loop import STATES
from training.state import ResumeError, states
from training.toml_reader import dotted_keys

SETTINGS, FINISHED = "settings.json", "finished.json"
_UNKNOWN = object()

NEVER_DECISIVE = frozenset(
    {
        "activation_checkpointing",
        "data.workers",
        "device",
        "evaluation.batch_size",
        "loop.device",
        "loop.sample_every",
        "loop.save_every",
        "loop.save_every_minutes",
    }
)
"""A result is the same, or would be on the same machine."""

FREE_ON_RESUME = NEVER_DECISIVE | {
    "loop.epochs",
    "loop.evaluate_every",
    "loop.max_minutes",
    "loop.max_steps",
    "loop.patience",
    "loop.precision",
    "stored_dtype",
}
"""What a run may go on with; one of another length goes over to the schedule of that length."""


def keep_settings(config: StageConfig, out: Path, *, resume: bool) -> None:
    """Writes the settings beside the states to come, after a look at those of the run that is there.

    Raises:
        ResumeError: it was trained with others that decide its course.
    """
    has_begun = bool(states(out / STATES))
    if has_begun and not resume:
        return  # which the loop refuses
    if has_begun:
        _refuse(out, _cut_faults(config, out))
        _name_changes(config, out)
    distributed.wait_for_all()  # all have read what the first process now writes
    distributed.by_first_rank(lambda: _begin(config, out))


def keep_result(config: StageConfig, out: Path, result: Path) -> None:
    """Marks a step as finished; done by the first process."""
    replace_text(out / FINISHED, _json({"result": result.name, "config": asdict(config)}))


def finished_result(out: Path) -> Path | None:
    """The result of a step that has finished."""
    if not (out / FINISHED).is_file():
        return None
    return out / str(json.loads((out / FINISHED).read_text())["result"])


def setting_faults(config: StageConfig, out: Path) -> list[str]:
    """Why a step cannot be skipped as finished, or cannot go on, with these settings."""
    if (out / FINISHED).is_file():
        kept = json.loads((out / FINISHED).read_text())["config"]
        return _faults("has finished", out, changed_settings(kept, config, free=NEVER_DECISIVE))
    return _cut_faults(config, out) if states(out / STATES) else []


def changed_settings(kept: Mapping[str, Any], config: StageConfig, *, free: frozenset[str]) -> list[str]:
    """A line for each setting that was another; one that is newer than the run is not compared."""
    now = json.loads(json.dumps(asdict(config)))
    lines = []
    for key in dotted_keys(type(config)):
        before, after = _value(kept, key), _value(now, key)
        if key not in free and before is not _UNKNOWN and before != after:
            lines.append(f"{key} was {json.dumps(before)}, is {json.dumps(after)}")
    return lines


def _cut_faults(config: StageConfig, out: Path) -> list[str]:
    return _faults("has begun", out, changed_settings(_kept(out), config, free=FREE_ON_RESUME))


def _faults(what: str, out: Path, changes: list[str]) -> list[str]:
    if not changes:
        return []
    remedy = "set them back, choose another --out, or delete the folder and those of later steps made from it"
    return [f"{out} {what} with other settings: {'; '.join(changes)}. To go on, {remedy}"]


def _refuse(out: Path, faults: list[str]) -> None:
    if faults:
        raise ResumeError(faults[0])


def _name_changes(config: StageConfig, out: Path) -> None:
    changes = changed_settings(_kept(out), config, free=frozenset())
    if changes and distributed.rank() == 0:
        Console().print(
            f"goes on with other settings: {'; '.join(changes)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _begin(config: StageConfig, out: Path) -> None:
    (out / FINISHED).unlink(missing_ok=True)
    replace_text(out / SETTINGS, _json(asdict(config)))


def _kept(out: Path) -> dict[str, Any]:
    """Nothing of a run that is older than this file."""
    if not (out / SETTINGS).is_file():
        return {}
    kept: dict[str, Any] = json.loads((out / SETTINGS).read_text())
    return kept


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Of a dotted key; _UNKNOWN where a run is older than the setting."""
    value: Any = settings
    for name in key.split("."):
        value = value.get(name, _UNKNOWN) if isinstance(value, Mapping) else _UNKNOWN
    return value


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"
