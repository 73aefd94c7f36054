"""What a run needs to go on: weights, moments and counters, written whole or not at all, without pickles."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.disk import clear_leftovers, drop_folder, new_folder, replace_text
from training.optim import WeightAverage

TENSORS, COUNTERS = "state.safetensors", "state.json"
KEPT_STATES = 2
_MOMENTS, _STEP = ("exp_avg", "exp_avg_sq"), "step"


class ResumeError(ValueError):
    """A run that cannot go on from what its folder holds."""


@dataclass
class Counters:
    """How far a run is; everything random is derived from the seed and these, so no generator needs saving.

    Args:
        step: finished optimizer steps.
        best_figure: highest value so far of the figure that chooses the result.
        best_step: step of that value.
        stale_evaluations: evaluations since then.
        seconds: time spent training, over all starts.
    """

    step: int = 0
    best_figure: float | None = None
    best_step: int = 0
    stale_evaluations: int = 0
    seconds: float = 0.0

    def is_best(self, figure: float) -> bool:
        """Whether the evaluation of this step is the best so far; takes it in."""
        if self.best_figure is not None and figure <= self.best_figure:
            self.stale_evaluations += self.step != self.best_step
            return False
        self.best_figure, self.best_step, self.stale_evaluations = figure, self.step, 0
        return True


def save_state(
    folder: Path,
    *,
    counters: Counters,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> Path:
    """Writes a state below `folder` and drops the oldest; a kill at any moment leaves a whole one.

    Raises:
        WriteError: no space; the older states are untouched.
    """
    clear_leftovers(folder)
    final = folder / f"step-{counters.step:08d}"
    written = json.dumps(asdict(counters), indent=1) + "\n"
    if final.is_dir():  # nothing has moved since: what the last evaluation added is in the counters
        replace_text(final / COUNTERS, written)
        return final
    with new_folder(final) as scratch:
        save_file(_tensors(module, optimizer, average), scratch / TENSORS)
        (scratch / COUNTERS).write_text(written)
    for old in states(folder)[:-KEPT_STATES]:
        drop_folder(old)
    return final


def states(folder: Path) -> list[Path]:
    """The complete states below a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def restore_state(
    path: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> Counters:
    """Puts a saved state back into these objects.

    Raises:
        ResumeError: the state belongs to other parameters than these.
    """
    with safe_open(path / TENSORS, "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = _tensors(module, optimizer, average, with_moments=False)
    mismatched = [
        name for name, value in expected.items() if name not in saved or saved[name].shape != value.shape
    ]
    if mismatched:
        raise ResumeError(
            f"{path} does not fit this configuration: {mismatched[0]} is missing or of another shape; "
            "go on with the configuration it was written with, or start a new run with init"
        )
    with torch.no_grad():
        for name, parameter in _trainable(module).items():
            parameter.copy_(saved[f"weights.{name}"])
    _restore_moments(optimizer, saved)
    if average is not None:
        average.restore({name: saved[f"average.{name}"] for name in average.values})
    return Counters(**json.loads((path / COUNTERS).read_text()))


def _tensors(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    *,
    with_moments: bool = True,
) -> dict[str, Tensor]:
    tensors = {f"weights.{name}": value.detach() for name, value in _trainable(module).items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.values.items()}
    if with_moments:
        for name, parameter in _named(optimizer):
            moments = optimizer.state[parameter]
            tensors |= {f"{key}.{name}": moments[key] for key in (*_MOMENTS, _STEP) if key in moments}
    return {name: value.contiguous() for name, value in tensors.items()}


def _restore_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    for group in optimizer.param_groups:
        counts_beside_weights = group.get("fused") or group.get("capturable")  # else torch counts on the CPU
        for name, parameter in zip(group["names"], group["params"], strict=True):
            moments = optimizer.state[parameter]
            for key in _MOMENTS:
                if f"{key}.{name}" in saved:
                    moments[key] = _in_layout_of(parameter, saved[f"{key}.{name}"])
            if f"{_STEP}.{name}" in saved:
                device = parameter.device if counts_beside_weights else "cpu"
                moments[_STEP] = saved[f"{_STEP}.{name}"].to(device, torch.float32)


def _in_layout_of(parameter: nn.Parameter, saved: Tensor) -> Tensor:
    """A copy with the parameter's strides: fused AdamW walks memory; convolutions may be channels-last."""
    return torch.empty_like(parameter, dtype=saved.dtype).copy_(saved)


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)
    ]


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}
