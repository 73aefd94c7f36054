"""What a run tells: a progress bar, one line of JSON a step, TensorBoard curves, printed samples."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

LOG, CURVES = "log.jsonl", "tensorboard"
QUIET_INTERVAL_S = 30.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""


class Journal:
    """Records the steps from `first` on; lines of an earlier try at the same steps are dropped."""

    def __init__(self, out: Path, name: str, *, first: int, total: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(out / LOG, first)
        self._log = (out / LOG).open("a", buffering=1)
        self._curves = SummaryWriter(str(out / CURVES), purge_step=first + 1)
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=total, completed=first, figures="")
        self._name, self._first, self._total = name, first, total
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._curves.close()
        self._log.close()

    def step(self, step: int, parts: Mapping[str, float]) -> None:
        """One line for an optimizer step."""
        self._write({"step": step, **{name: _rounded(value) for name, value in parts.items()}})
        for name, value in parts.items():
            self._curves.add_scalar(f"train/{name}", value, step)
        figures = f"loss {parts['loss']:.4f}"
        self._progress.update(self._task, completed=step, figures=figures)
        self._speak_without_terminal(step, figures)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """The validation figures after a step."""
        if not figures:
            return
        self._write({"step": step, "evaluation": {name: _rounded(value) for name, value in figures.items()}})
        for name, value in figures.items():
            self._curves.add_scalar(f"validation/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._print(f"{self._name} step {step}: {shown}")

    def samples(self, step: int, lines: Sequence[str]) -> None:
        """Example captions after a step."""
        if not lines:
            return
        self._write({"step": step, "samples": list(lines)})
        for line in lines:
            self._print(f"  {line}")

    def _write(self, record: Mapping[str, Any]) -> None:
        self._log.write(json.dumps(record) + "\n")

    def _speak_without_terminal(self, step: int, figures: str) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < QUIET_INTERVAL_S:
            return
        self._spoke = now
        left = (now - self._began) / (step - self._first) * (self._total - step)
        self._print(f"{self._name} step {step}/{self._total}: {figures}, {left / 60:.0f} min left")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text().splitlines() if step else []
    kept = [line for line in lines if _step_of(line) <= step]
    path.write_text("".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the half line that a kill left behind
