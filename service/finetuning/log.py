"""The log of a training run as it grows: points of its curve."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_POINTS = 400
"""Of one run; of more steps every few are kept, and every look at held-out photos."""

_LOG = "log.jsonl"
"""The training loop's own (training.journal)."""

_STEP_FIGURES = {"loss": "loss", "kl": "kl", "tokens": "tokens", "images_per_s": "images_per_s"}
_HELD_OUT_FIGURES = {
    "clip_similarity": "clip_similarity",
    "second_clip_similarity": "second_similarity",
    "r@1": "recall_at_1",
    "second_r@1": "second_recall_at_1",
    "distinct_captions": "distinct_captions",
    "repetition": "repetition",
    "length_mean": "length",
}

Point = dict[str, float]


class TrainingLog:
    """Reads what was added to a run's log since the last look."""

    def __init__(self, folder: Path, *, steps: int) -> None:
        self._path = folder / _LOG
        self._every = -(-steps // MOST_POINTS)
        self._inode, self._offset = 0, 0
        self._points: dict[float, Point] = {}
        self.step = 0

    @property
    def points(self) -> list[Point]:
        """All points, in order of their steps."""
        return [self._points[step] for step in sorted(self._points)]

    def read(self) -> list[Point]:
        """The points that are new or have more figures than before."""
        if not self._path.is_file():
            return []
        inode = self._path.stat().st_ino
        if inode != self._inode:  # a run that goes on has written it anew, without its last steps
            self._inode, self._offset, self._points = inode, 0, {}
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        changed = [self._take(json.loads(line)) for line in whole.splitlines()]
        latest = {point["step"]: point for point in changed if point is not None}
        return list(latest.values())

    def _take(self, record: Mapping[str, Any]) -> Point | None:
        step = record["step"]
        if "evaluation" in record:
            found = _named(record["evaluation"], _HELD_OUT_FIGURES)
        elif "loss" in record:
            self.step = step
            found = _named(record, _STEP_FIGURES)
            if "similarity" in record:  # the loop logs the loss, which is minus the reward
                found["sampled_similarity"] = -record["similarity"]
            if step % self._every and step != 1:
                return None
        else:
            return None
        self._points[step] = {"step": step} | self._points.get(step, {}) | found
        return self._points[step]


def _named(figures: Mapping[str, Any], names: Mapping[str, str]) -> Point:
    return {name: float(figures[key]) for key, name in names.items() if key in figures}
