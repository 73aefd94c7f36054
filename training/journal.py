"""What a run tells: a progress bar, one line of JSON a step, TensorBoard curves, printed samples."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
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

from training import distributed
from training.curves import Curves
from training.disk import escaped, replace_text, writing

LOG, CURVES = "log.jsonl", "tensorboard"
QUIET_INTERVAL_S = 30.0
"""Seconds between progress lines where there is no terminal to draw a bar on."""


class Journal:
    """Records the steps after `first`; what an earlier try wrote of them is dropped, so each is there once.

    Everything is on the disk when a method returns: a state that is saved next never knows more steps.

    Raises:
        WriteError: from every method, when the disk is full.
    """

    def __init__(self, out: Path, name: str, *, first: int, total: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / LOG
        self._known = _drop_lines_after(self._path, first)
        with writing(self._path):
            self._log = self._path.open("a", buffering=1)
            self._curves = Curves(out / CURVES, first=first)
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
        with suppress(OSError):  # the line that a full disk refused, tried once more by the buffer
            self._log.close()

    def step(self, step: int, parts: Mapping[str, float]) -> None:
        """One line for an optimizer step."""
        self._write({"step": step, **_rounded(parts)}, curves=_named("train", parts))
        figures = f"loss {parts['loss']:.4f}"
        self._progress.update(self._task, completed=step, figures=figures)
        self._speak_without_terminal(step, figures)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """The validation figures after a step."""
        if not figures:
            return
        self._write({"step": step, "evaluation": _rounded(figures)}, curves=_named("validation", figures))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._print(f"{self._name} step {step}: {shown}")

    def samples(self, step: int, lines: Sequence[str]) -> None:
        """Example captions after a step."""
        if not lines:
            return
        self._write({"step": step, "samples": list(lines)})
        for line in lines:
            self._print(f"  {line}")

    def _write(self, record: Mapping[str, Any], *, curves: Mapping[str, float] | None = None) -> None:
        if _kind(record) in self._known:  # a run that goes on at its end evaluates the last step again
            return
        with writing(self._path):
            self._log.write(json.dumps(record) + "\n")
            if curves:
                self._curves.add(record["step"], curves)

    def _speak_without_terminal(self, step: int, figures: str) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._spoke < QUIET_INTERVAL_S:
            return
        self._spoke = now
        left = (now - self._began) / (step - self._first) * (self._total - step)
        self._print(f"{self._name} step {step}/{self._total}: {figures}, {left / 60:.0f} min left")

    def _print(self, line: str) -> None:
        self._console.print(escaped(line), highlight=False, markup=False, soft_wrap=True)


class MutedJournal(Journal):
    """Of a process that leaves the journal to the first one."""

    def __init__(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def step(self, step: int, parts: Mapping[str, float]) -> None: ...

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None: ...

    def samples(self, step: int, lines: Sequence[str]) -> None: ...


def open_journal(out: Path, name: str, *, first: int, total: int) -> Journal:
    """The journal of a run, which the first of its processes keeps."""
    return Journal(out, name, first=first, total=total) if distributed.rank() == 0 else MutedJournal()


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _named(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _drop_lines_after(path: Path, step: int) -> set[tuple[float, str]]:
    """Keeps the lines up to a step; returns what those of that very step are about."""
    if not path.is_file():
        return set()
    records = [(line, _record(line)) for line in (path.read_text().splitlines() if step else [])]
    kept = [(line, record) for line, record in records if record["step"] <= step]
    replace_text(path, "".join(f"{line}\n" for line, _ in kept))
    return {_kind(record) for _, record in kept if record["step"] == step}


def _record(line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return {"step": float("inf")}  # the half line that a kill left behind
    return record


def _kind(record: Mapping[str, Any]) -> tuple[float, str]:
    kinds = [kind for kind in ("evaluation", "samples") if kind in record]
    return record["step"], kinds[0] if kinds else "step"
