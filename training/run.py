"""Runs a training step from its configuration to its result, and a recipe's steps one after the other."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from training import distributed
from training.averaging import run_average
from training.config import (
    STAGES,
    AverageConfig,
    JointConfig,
    Places,
    PseudoConfig,
    ReleaseConfig,
    StageConfig,
    SupervisedConfig,
    TextConfig,
    TokenizerConfig,
    UnsupervisedConfig,
)
from training.data import Problems, read_texts
from training.dry_run import DryRun, dry_run
from training.inputs import missing_results
from training.joint import run_joint
from training.kept_settings import finished_result, keep_result, keep_settings, setting_faults
from training.pseudo_captions import run_pseudo
from training.release import run_release
from training.sources import read_captioned_sources
from training.supervised import run_supervised
from training.text import run_text
from training.toml_reader import TrainingConfigError, config_from, read_toml
from training.unsupervised import run_unsupervised
from training.vocabulary import learn_merges, write_merges

MERGES = "bpe.txt.gz"


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
    config = config_from(STAGES[name], values, source=str(path))
    missing = [key for key in _required_sources(config) if not getattr(config.data, key)]  # type: ignore[union-attr]
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
    runners: dict[type[Any], Callable[[Any, Places, bool, Problems], Path]] = {
        TokenizerConfig: _run_tokenizer,
        TextConfig: _run_text,
        JointConfig: _run_joint,
        PseudoConfig: _run_pseudo,
        SupervisedConfig: _run_supervised,
        UnsupervisedConfig: _run_unsupervised,
        AverageConfig: _run_average,
        ReleaseConfig: _run_release,
    }
    problems = Problems()
    result = runners[type(config)](config, places, resume, problems)
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


def _required_sources(config: StageConfig) -> Sequence[str]:
    sources: dict[type[Any], Sequence[str]] = {
        TextConfig: ("text",),
        JointConfig: ("labelled",),
        PseudoConfig: ("unlabelled", "text"),
        SupervisedConfig: ("labelled",),
        UnsupervisedConfig: ("unlabelled",),
    }
    return sources.get(type(config), ())


def _device(config: StageConfig) -> str:
    if isinstance(config, TextConfig | JointConfig | SupervisedConfig | UnsupervisedConfig):
        return config.loop.device
    if isinstance(config, PseudoConfig):
        return config.device
    return "cpu" if isinstance(config, AverageConfig) else "auto"


def _run_tokenizer(config: TokenizerConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return distributed.by_first_rank(lambda: _learn_vocabulary(config, places, problems))


def _learn_vocabulary(config: TokenizerConfig, places: Places, problems: Problems) -> Path:
    captions = list(read_texts([places.data / file for file in config.data.text], problems).texts)
    if config.data.labelled:
        labelled = read_captioned_sources(places.sources(config.data.labelled), problems)
        captions += [caption for group in labelled.captions for caption in group]
    problems.report(places.out)
    if not captions:
        raise problems.nothing_left("data.text and data.labelled")
    merges = learn_merges(captions, num_merges=config.num_merges, min_count=config.min_count)
    write_merges(merges, places.out / MERGES)
    return places.out / MERGES


def _run_text(config: TextConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return run_text(config, places, problems, resume=resume).folder


def _run_joint(config: JointConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return run_joint(config, places, problems, resume=resume).folder


def _run_pseudo(config: PseudoConfig, places: Places, resume: bool, problems: Problems) -> Path:
    device = distributed.start(config.device)
    return distributed.by_first_rank(lambda: run_pseudo(config, places, problems, device=device))


def _run_supervised(config: SupervisedConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return run_supervised(config, places, problems, resume=resume).folder


def _run_unsupervised(config: UnsupervisedConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return run_unsupervised(config, places, problems, resume=resume).folder


def _run_average(config: AverageConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return distributed.by_first_rank(lambda: run_average(config, places))


def _run_release(config: ReleaseConfig, places: Places, resume: bool, problems: Problems) -> Path:
    return distributed.by_first_rank(lambda: run_release(config, places))
