"""What the log of a training run says: its loss and the validation figures over its steps."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.journal import LOG


@dataclass(frozen=True)
class History:
    """A run's course.

    Args:
        losses: step and training loss.
        evaluations: step and validation figures.
    """

    losses: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, Mapping[str, float]], ...]

    def smoothed_losses(self, points: int) -> tuple[list[float], list[float]]:
        """Steps and losses, averaged over stretches so that at most `points` are left."""
        if not self.losses:
            return [], []
        stretches = np.array_split(np.asarray(self.losses, dtype=float), min(points, len(self.losses)))
        means = np.stack([stretch.mean(axis=0) for stretch in stretches])
        return means[:, 0].tolist(), means[:, 1].tolist()

    def course(self, figure: str) -> tuple[list[int], list[float]]:
        """Steps at which a figure was measured, and its values."""
        points = [(step, figures[figure]) for step, figures in self.evaluations if figure in figures]
        return [step for step, _ in points], [value for _, value in points]


def history_of(checkpoint: Path) -> History | None:
    """The course of the run whose folder a checkpoint lies in; None for one that lies elsewhere."""
    log = checkpoint.resolve().parent / LOG
    if not log.is_file():
        return None
    records = list(_records(log))
    return History(
        tuple((record["step"], record["loss"]) for record in records if "loss" in record),
        tuple((record["step"], record["evaluation"]) for record in records if "evaluation" in record),
    )


def _records(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the half line that a kill left behind
            return
