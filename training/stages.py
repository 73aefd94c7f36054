"""Every kind of training step, each in one place of the table STAGES."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from training import distributed
from training.averaging import run_average
from training.config import (
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
from training.data import Problems
from training.joint import build_joint
from training.loop import Build, build_and_train
from training.pseudo_captions import run_pseudo
from training.release import run_release
from training.supervised import build_supervised
from training.text import build_text
from training.unsupervised import build_unsupervised
from training.vocabulary import run_tokenizer


class Runner(Protocol):
    """Takes a step from its configuration to its result and returns where that lies."""

    def __call__(self, config: Any, places: Places, problems: Problems, *, resume: bool) -> Path: ...


@dataclass(frozen=True)
class StageEntry:
    """What the commands know of a kind of step; what it reads is marked in its settings.

    Args:
        config: the class of its settings.
        about: one line for --help.
        build: makes the stage that the loop trains, so that a dry run can try one step; None where none is.
        needs: keys of [data] that must name something.
    """

    config: type[StageConfig]
    about: str
    run: Runner
    build: Build | None = None
    needs: Sequence[str] = ()


def _trained(config: type[StageConfig], about: str, build: Build, *, needs: Sequence[str]) -> StageEntry:
    """A step that the training loop runs."""

    def run(config: Any, places: Places, problems: Problems, *, resume: bool) -> Path:
        return build_and_train(build, config, places, problems, resume=resume).folder

    return StageEntry(config, about, run, build, needs)


def _once(
    config: type[StageConfig],
    about: str,
    act: Callable[[Any, Places, Problems], Path],
    *,
    needs: Sequence[str] = (),
) -> StageEntry:
    """A step that the first process does in one go."""

    def run(config: Any, places: Places, problems: Problems, *, resume: bool) -> Path:
        return distributed.by_first_rank(partial(act, config, places, problems))

    return StageEntry(config, about, run, needs=needs)


STAGES: Mapping[str, StageEntry] = {
    "tokenizer": _once(
        TokenizerConfig, "Learn a small vocabulary in CLIP's format from captions.", run_tokenizer
    ),
    "text": _trained(
        TextConfig, "Start a small CLIP and a decoder on captions alone.", build_text, needs=("text",)
    ),
    "joint": _trained(
        JointConfig, "Go on with both from the pixels of labelled photos.", build_joint, needs=("labelled",)
    ),
    "pseudo": _once(
        PseudoConfig,
        "Lend unlabelled photos captions of other photos.",
        run_pseudo,
        needs=("unlabelled", "text"),
    ),
    "supervised": _trained(
        SupervisedConfig,
        "Stage 1: learn to caption from labelled photos.",
        build_supervised,
        needs=("labelled",),
    ),
    "unsupervised": _trained(
        UnsupervisedConfig,
        "Stage 2: go on from unlabelled photos, by CLIP similarity.",
        build_unsupervised,
        needs=("unlabelled",),
    ),
    "average": _once(
        AverageConfig,
        "Average the weights of checkpoints that began as one.",
        lambda config, places, _: run_average(config, places),
    ),
    "release": _once(
        ReleaseConfig,
        "Measure checkpoints and write the last one's model card.",
        lambda config, places, _: run_release(config, places),
    ),
}


def entry_of(config: StageConfig) -> StageEntry:
    """The entry of the step that a configuration is for."""
    return next(entry for entry in STAGES.values() if entry.config is type(config))
