"""Several arms of training, some with several seeds, run one after the other, measured alike and reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.config import Places, StageConfig
from training.config_parts import SHIPPED
from training.evaluate import beam_options, evaluate_checkpoint, read_evaluation_photos
from training.experiment_page import Arm, Run, write_experiment
from training.report import read_report
from training.run import read_step, run_steps
from training.toml_reader import TrainingConfigError, config_from, read_toml, setting

PLAN = "experiment.toml"
REPORT = "report.json"


@dataclass(frozen=True)
class ArmConfig:
    """One arm: a step of the folder, changed."""

    about: str = setting(doc="what it is, in the table")
    step: str = setting(doc="file of the folder, without .toml")
    init: str = setting("", "arm whose result of the same seed it starts from; empty: what the step says")
    changes: tuple[str, ...] = setting((), "settings that differ from the step's, as KEY=VALUE")
    seeds: int = setting(1, "runs, with loop.seed 0, 1, …", low=1, high=20)


@dataclass(frozen=True)
class ExperimentConfig:
    """What all arms share."""

    validation: str = setting(doc="labelled folder, never trained on, relative to the data root")
    compared: tuple[str, ...] = setting(doc="arms of the first table")
    variants_of: str = setting(doc="arm that the others vary")
    curves: tuple[str, ...] = setting((), "arms of the curve, six at most")
    second_scorer: str = setting(
        SHIPPED, "CLIP folder that no loss has seen, relative to the folder of runs; shipped: ours"
    )
    start: tuple[str, ...] = setting((), "steps run before the arms")
    num_beams: int = setting(4, "1: greedy", low=1, high=16)
    examples: int = setting(24, "photos whose captions are shown", low=0)
    about: str = setting("", "Markdown after the title")
    findings: str = setting("", "Markdown after the figures: what a person reads in them")


@dataclass(frozen=True)
class _Step:
    """A run before it has run. Args: name: of its folder, like A-0; of the arm alone for one seed."""

    name: str
    arm: str
    config: StageConfig


def run_experiment(folder: Path, *, data: Path, out: Path) -> Path:
    """Runs what has not been run, measures what has not been measured, and writes the page.

    Raises:
        TrainingConfigError: every mistake in the plan or in an arm, before anything is trained.
    """
    config, arms = read_experiment(folder)
    start = [(name, read_step(folder / f"{name}.toml")[1]) for name in config.start]
    steps = _steps(folder, arms)
    trained = [*start, *((step.name, step.config) for step in steps)]
    run_steps(trained, data=data, out=out, source=str(folder))
    photos = read_evaluation_photos(data / config.validation)
    options = beam_options(config.num_beams)
    runs = []
    for step in steps:
        places = Places(data, out / step.name)
        if not (places.out / REPORT).is_file():
            report = evaluate_checkpoint(
                places.out / "model",
                photos,
                options=options,
                cache=places.cache,
                second_scorer=places.second_scorer(config.second_scorer),
            )
            report.write(places.out / REPORT)
        runs.append(Run(step.arm, step.name, read_report(places.out / REPORT), places.out / "model"))
    return write_experiment(out, config, [Arm(name, arm.about) for name, arm in arms.items()], runs)


def read_experiment(folder: Path) -> tuple[ExperimentConfig, Mapping[str, ArmConfig]]:
    """The plan of a folder; raises TrainingConfigError with all its mistakes."""
    path = folder / PLAN
    values = read_toml(path)
    tables = values.pop("arms", {})
    config = config_from(ExperimentConfig, values, source=str(path))
    arms = {
        name: config_from(ArmConfig, table, source=f"{path}, arm {name}") for name, table in tables.items()
    }
    unknown = [
        f"{key} names {name!r}, which is no arm"
        for key, names in (
            ("compared", config.compared),
            ("variants_of", (config.variants_of,)),
            ("curves", config.curves),
        )
        for name in names
        if name not in arms
    ]
    if unknown:
        raise TrainingConfigError(str(path), unknown)
    return config, arms


def _steps(folder: Path, arms: Mapping[str, ArmConfig]) -> list[_Step]:
    names: dict[str, list[str]] = {}
    steps = []
    for arm, config in arms.items():
        parents = names.get(config.init, [])
        if config.init and len(parents) < config.seeds:
            raise TrainingConfigError(
                f"arm {arm}", [f"init is {config.init!r}, of which {len(parents)} runs come before it"]
            )
        names[arm] = [f"{arm}-{seed}" for seed in range(config.seeds)]
        for seed, name in enumerate(names[arm]):
            changes = [*config.changes, f"loop.seed={seed}"]
            changes += [f"init={parents[seed]}/model"] if config.init else []
            steps.append(_Step(name, arm, read_step(folder / f"{config.step}.toml", changes)[1]))
    return steps
