"""Runs a training step from its configuration to its result, and a recipe's steps one after the other."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from training import distributed
from training.config import Places, StageConfig, TrainedConfig
from training.data import Problems
from training.dry_run import DryRun, dry_run
from training.inputs import missing_results
from training.kept_settings import finished_result, keep_result, keep_settings, setting_faults
from training.stages import STAGES, entry_of
from training.toml_reader import TrainingConfigError, config_from, read_toml


def read_step(
    path: Path, overrides: Sequence[str] = (), *, expected: str | None = None
) -> tuple[str, StageConfig]:
    """The stage that a TOML file is for (its top-level `stage`), and its configuration.

    Args:
        expected: stage that the caller wants; a file for another is refused, one that says none is taken.
    """
    values = read_toml(path, overrides)
    name = values.pop("stage", expected)
    if name not in STAGES or expected not in (None, name):
        wanted = repr(expected) if expected else " or ".join(map(repr, STAGES))
        raise TrainingConfigError(str(path), [f"stage is {name!r}; it must be {wanted}"])
    config: StageConfig = config_from(STAGES[name].config, values, source=str(path))
    missing = [key for key in STAGES[name].needs if not getattr(config.data, key)]  # type: ignore[union-attr]
    if missing:
        raise TrainingConfigError(str(path), [f"data.{key} names nothing to learn from" for key in missing])
    return name, config


def run_step(config: StageConfig, places: Places, *, resume: bool) -> Path:
    """Trains one step and returns where its result lies.

    Raises:
        ResumeError: `out` holds a run that was trained with other settings.
    """
    places.out.mkdir(parents=True, exist_ok=True)
    distributed.start(_device(config))
    keep_settings(config, places.out, resume=resume)
    result = entry_of(config).run(config, places, Problems(), resume=resume)
    distributed.by_first_rank(lambda: keep_result(config, places.out, result))
    return result


def run_recipe(folder: Path, *, data: Path, out: Path) -> list[Path]:
    """Runs a folder's TOML files in order of their numbers; finished steps are skipped, a cut one goes on.

    Each step writes to `out/<name of its file>`, where later steps find its result.
    """
    steps = _read_recipe(folder)
    names = [name for name, _ in steps]
    faults = [
        f"step {name}: {fault}"
        for place, (name, config) in enumerate(steps)
        for fault in missing_results(config, Places(data, out / name), earlier=names[:place])
    ]
    if faults:
        raise TrainingConfigError(str(folder), faults)
    return run_steps(steps, data=data, out=out, source=str(folder))


def run_steps(steps: Sequence[tuple[str, StageConfig]], *, data: Path, out: Path, source: str) -> list[Path]:
    """Runs named steps, goes on with a cut one, skips finished ones; returns where their results lie.

    Raises:
        TrainingConfigError: a step finished or began with other settings; found before the first one runs.
    """
    faults = [
        f"step {name}: {fault}" for name, config in steps for fault in setting_faults(config, out / name)
    ]
    if faults:
        raise TrainingConfigError(source, faults)
    return [_run_unless_finished(name, config, Places(data, out / name)) for name, config in steps]


def _run_unless_finished(name: str, config: StageConfig, places: Places) -> Path:
    result = finished_result(places.out)
    if result is None:
        return run_step(config, places, resume=True)
    if distributed.rank() == 0:
        Console().print(f"{name}: finished before, skipped", highlight=False)
    return result


def dry_run_recipe(folder: Path, *, data: Path, out: Path) -> list[DryRun]:
    """What each step of a recipe would meet; an earlier step's result need not exist yet."""
    steps = _read_recipe(folder)
    names = [name for name, _ in steps]
    return [
        dry_run(name, config, Places(data, out / name), earlier=names[:place])
        for place, (name, config) in enumerate(steps)
    ]


def _read_recipe(folder: Path) -> list[tuple[str, StageConfig]]:
    """All steps: a mistake in the last one must not wait for hours of training."""
    files = sorted(folder.glob("*.toml"), key=_number_and_name)
    if not files:
        raise TrainingConfigError(str(folder), ["has no .toml file"])
    return [(file.stem, read_step(file)[1]) for file in files]


def _number_and_name(file: Path) -> tuple[float, str]:
    """10-release comes after 9-average; a file without a number comes last."""
    digits = re.match(r"\d+", file.name)
    return (int(digits[0]) if digits else math.inf, file.name)


def _device(config: StageConfig) -> str:
    return config.loop.device if isinstance(config, TrainedConfig) else getattr(config, "device", "auto")
