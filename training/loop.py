"""One training loop for every stage: accumulate, clip, schedule, log, evaluate, sample, save, resume."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from training import distributed
from training.autocast import autocast
from training.config import Places, TrainedConfig
from training.config_parts import LoopConfig, OptimConfig
from training.data import Problems
from training.disk import WriteError, clear_leftovers, writing
from training.journal import Journal, open_journal
from training.optim import WeightAverage, build_optimizer, largest, lr_share, optimized
from training.order import batch_rows, generator_at, seed_at, total_steps
from training.stage import Losses, Stage
from training.state import Counters, ResumeError, restore_state, save_state, states
from training.toml_reader import TrainingConfigError

STATES, RESULT = "states", "model"
SECONDS = "seconds"


class TrainingDivergedError(RuntimeError):
    """The loss or its gradient is no longer a number; the last good state is on disk."""


Build = Callable[..., Stage]
"""Makes a stage of its configuration, places, problems and device: build_supervised and its like."""


@dataclass(frozen=True)
class TrainingResult:
    """Args:
    folder: the result, as `Stage.write_result` wrote it.
    step: optimizer steps behind it.
    figures: the last evaluation.
    """

    folder: Path
    step: int
    figures: Mapping[str, float]


def train(stage: Stage, *, optim: OptimConfig, loop: LoopConfig, out: Path, resume: bool) -> TrainingResult:
    """Trains a stage to its end and returns where its result lies.

    Raises:
        ResumeError: `out` holds a run and `resume` is False, or the run there has other parameters.
        TrainingDivergedError: a loss, a gradient or a weight is not finite.
        WriteError: the disk is full.
    """
    return _Run(stage, optim, loop, out).start(resume=resume)


def build_and_train(
    build: Build, config: TrainedConfig, places: Places, problems: Problems, *, resume: bool
) -> TrainingResult:
    """A stage from its configuration to its result; the first process reads and encodes, the others find it.

    Raises:
        As `build` and `train`; TrainingConfigError where loop.best_by has nothing to measure.
    """
    best_by = config.loop.best_by
    if best_by and not config.data.validation:
        raise TrainingConfigError("loop.best_by", [f"is {best_by!r}, which needs data.validation"])
    device = distributed.start(config.loop.device)
    with distributed.first_rank_first(), problems.reported(places.out):
        stage = build(config, places, problems, device=device)
    return train(stage, optim=config.optim, loop=config.loop, out=places.out, resume=resume)


class _Run:
    def __init__(self, stage: Stage, optim: OptimConfig, loop: LoopConfig, out: Path) -> None:
        self.stage, self.optim, self.loop, self.out = stage, optim, loop, out
        self.optimizer = build_optimizer(stage.module, optim)
        self.parameters = optimized(self.optimizer)
        self.average = WeightAverage(stage.module, loop.average_decay) if loop.average_decay else None
        self.counters = Counters()
        self.figures: dict[str, float] = {}
        self.total_steps = total_steps(
            items=stage.items,
            batch_size=loop.batch_size,
            accumulate=loop.accumulate,
            epochs=loop.epochs,
            max_steps=loop.max_steps,
        )
        self._saved_at = time.monotonic()
        self._seconds = 0.0  # of the first process: all decide by its clock
        self._evaluated_at: int | None = None

    def start(self, *, resume: bool) -> TrainingResult:
        self._restore(resume=resume)
        try:
            self._run()
        except WriteError as error:
            raise WriteError(
                f"{error}; {self._last_good_state()}. Free some space and go on with --resume"
            ) from error
        return TrainingResult(self.out / RESULT, self.counters.step, self.figures)

    def _run(self) -> None:
        with open_journal(
            self.out, self.stage.name, first=self.counters.step, total=self.total_steps
        ) as journal:
            if self.loop.best_by and self.counters.step == 0:
                self._evaluate(journal)  # a wrong best_by ends the run here, and the start may stay the best
            while self.counters.step < self.total_steps and not self._is_over():
                self._step(journal)
            self._finish(journal)

    def _restore(self, *, resume: bool) -> None:
        if distributed.rank() == 0:
            clear_leftovers(self.out, f".{RESULT}-*")
        saved = states(self.out / STATES)
        if saved and not resume:
            raise ResumeError(
                f"{self.out} already holds a run; add --resume to go on with it, or choose another --out"
            )
        if saved:
            self.counters = restore_state(
                saved[-1], module=self.stage.module, optimizer=self.optimizer, average=self.average
            )
            self._seconds = self.counters.seconds
        distributed.wait_for_all()  # before the first process writes what the others still read

    def _step(self, journal: Journal) -> None:
        began = time.monotonic()
        share = lr_share(self.counters.step, total_steps=self.total_steps, config=self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        try:
            parts = self._gradients(began)
        except KeyboardInterrupt:
            self._save()  # only here: nothing has moved since the last step, so going on is exact
            raise
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.counters.step)
        self.counters.step += 1
        elapsed = time.monotonic() - began
        self.counters.seconds += elapsed
        images = min(self.loop.batch_size, self.stage.items) * self.loop.accumulate
        parts |= {"lr": self.optim.lr * share, "images_per_s": images / elapsed}
        journal.step(self.counters.step, parts)
        self._look_up(journal)

    def _gradients(self, began: float) -> dict[str, float]:
        self.stage.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for part in range(self.loop.accumulate):
            losses, share = self._forward(self.counters.step * self.loop.accumulate + part)
            self._require_finite("loss", float(losses.total.detach()))
            (losses.total * share).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": losses.total, **losses.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
        distributed.add_up_gradients(self.parameters)
        if distributed.rank() == 0:
            sums[SECONDS] = self.counters.seconds + time.monotonic() - began
        sums = distributed.added_up(sums)
        self._seconds = sums.pop(SECONDS)
        sums["grad_norm"] = self._clip_gradients()
        return sums

    def _forward(self, position: int) -> tuple[Losses, float]:
        """The losses of this process's images of a batch, and their share of the step's images."""
        seed = self.loop.seed
        batch = batch_rows(position, total=self.stage.items, batch_size=self.loop.batch_size, seed=seed)
        rows = distributed.own_share(batch)
        own = (distributed.rank(),) if distributed.rank() else ()  # the first draws as a process alone would
        torch.manual_seed(seed_at(position, 1, *own, seed=seed))  # dropout
        with self._autocast():
            losses = self.stage.losses(
                rows,
                done=self.counters.step / self.total_steps,
                generator=generator_at(position, 2, *own, seed=seed),
            )
        return losses, len(rows) / (len(batch) * self.loop.accumulate)

    def _clip_gradients(self) -> float:
        limit = self.optim.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, limit))
        self._require_finite("gradient", norm)
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the {what} is {value} at step {self.counters.step}; {self._last_good_state()}. "
                "Lower optim.lr or set loop.precision to fp32"
            )

    def _last_good_state(self) -> str:
        saved = states(self.out / STATES)
        return f"the last good state is {saved[-1]}" if saved else "no state was saved yet"

    def _look_up(self, journal: Journal) -> None:
        step, loop = self.counters.step, self.loop
        is_last = step == self.total_steps
        if loop.sample_every and step % loop.sample_every == 0:
            self._show_samples(journal)
        if loop.evaluate_every and step % loop.evaluate_every == 0 and not is_last:
            self._evaluate(journal)
        is_late = time.monotonic() - self._saved_at > loop.save_every_minutes * 60
        if step % loop.save_every == 0 or is_late or is_last:
            self._save()

    def _finish(self, journal: Journal) -> None:
        """The last evaluation; repeated when a run that had finished is started again."""
        if not self._has_stopped_improving() and self._evaluated_at != self.counters.step:
            self._evaluate(journal)
        if not self.loop.best_by:
            self._write_result()
        self._save()

    def _evaluate(self, journal: Journal) -> None:
        self.stage.module.eval()
        with self._averaged(), torch.no_grad():  # in full precision, as the service runs it
            self.figures = distributed.by_first_rank(self.stage.evaluate)
        journal.evaluation(self.counters.step, self.figures)
        self._evaluated_at = self.counters.step
        if not self.loop.sample_every:
            self._show_samples(journal)
        self._keep_best()

    def _keep_best(self) -> None:
        if not self.loop.best_by:
            return
        if self.loop.best_by not in self.figures:
            known = ", ".join(self.figures) or "none, without data.validation"
            raise TrainingConfigError(
                "loop.best_by", [f"is {self.loop.best_by!r}; the evaluation's figures are {known}"]
            )
        if self.counters.step == 0 and not self.loop.start_may_win:
            return
        if self.counters.is_best(self.figures[self.loop.best_by]):
            self._write_result()

    def _write_result(self) -> None:
        def write() -> None:
            with self._averaged(), writing(self.out / RESULT):
                self.stage.write_result(self.out / RESULT, step=self.counters.step)

        distributed.by_first_rank(write)

    def _show_samples(self, journal: Journal) -> None:
        self.stage.module.eval()
        with self._averaged(), torch.no_grad():
            journal.samples(self.counters.step, distributed.by_first_rank(self.stage.samples))

    def _is_over(self) -> bool:
        limit_s = 60 * self.loop.max_minutes
        return self._has_stopped_improving() or 0 < limit_s <= self._seconds

    def _has_stopped_improving(self) -> bool:
        return 0 < self.loop.patience <= self.counters.stale_evaluations

    def _save(self) -> None:
        self._require_finite("largest weight", largest(self.parameters))
        self._saved_at = time.monotonic()
        if distributed.rank() > 0:
            return
        save_state(
            self.out / STATES,
            counters=self.counters,
            module=self.stage.module,
            optimizer=self.optimizer,
            average=self.average,
        )

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.in_place() if self.average is not None else nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(next(self.stage.module.parameters()).device, self.loop.precision)
