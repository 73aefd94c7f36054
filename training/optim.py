"""AdamW's parameter groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.config_parts import OptimConfig
from training.toml_reader import TrainingConfigError


def lr_share(step: int, *, total_steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at a step (0-based): linear warm-up, then half a cosine."""
    warmup_steps = min(config.warmup_steps, total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what learns; each group remembers its `peak_lr` and the names of its parameters."""
    groups = parameter_groups(module, config)
    device = next(module.parameters()).device.type
    return torch.optim.AdamW(
        groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=device in ("cpu", "cuda")
    )


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and decay.

    Matrices decay; vectors (norms, biases, scales) and embeddings don't: decay would pull rare words to zero.

    Raises:
        TrainingConfigError: nothing learns, or a multiplier is for parameters that are not there.
    """
    _check_prefixes(module, config.lr_multipliers, setting="optim.lr_multipliers")
    embeddings = _embedding_names(module)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        multiplier = lr_multiplier(name, config.lr_multipliers)
        if not parameter.requires_grad or multiplier == 0:
            continue
        decays = parameter.ndim > 1 and name not in embeddings
        key = (config.lr * multiplier, config.weight_decay if decays else 0.0)
        empty = {"params": [], "names": [], "lr": key[0], "peak_lr": key[0], "weight_decay": key[1]}
        group = groups.setdefault(key, empty)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise TrainingConfigError("frozen", ["nothing is left to train: every parameter is frozen"])
    return list(groups.values())


def optimized(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def largest(parameters: list[Tensor]) -> float:
    """The largest absolute value in any of them; not finite if one is not."""
    return float(torch.stack(torch._foreach_norm(parameters, math.inf)).max())


def _check_prefixes(module: nn.Module, prefixes: Iterable[str], *, setting: str) -> None:
    names = [name for name, _ in module.named_parameters()]
    unused = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
    if unused:
        starts = ", ".join(unused)
        raise TrainingConfigError(
            setting, [f"no parameter starts with {starts}; names start like {names[0]}"]
        )


def lr_multiplier(name: str, multipliers: Mapping[str, float]) -> float:
    """The multiplier of the longest prefix that the parameter's name starts with; 1 without one."""
    matching = [prefix for prefix in multipliers if name.startswith(prefix)]
    return multipliers[max(matching, key=len)] if matching else 1.0


def freeze(module: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Stops the parameters whose name starts with one of the prefixes from learning.

    Raises:
        TrainingConfigError: a prefix that no parameter starts with; it would freeze nothing in silence.
    """
    _check_prefixes(module, prefixes, setting="frozen")
    for name, parameter in module.named_parameters():
        if name.startswith(prefixes or ("\0",)):
            parameter.requires_grad_(False)


class WeightAverage:
    """An exponential moving average of the trainable weights, steadier than the last ones."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after a step (0-based); early ones count more, so the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the averaged weights while this is open."""
        kept = {name: value.detach().clone() for name, value in self._live.items()}
        try:
            self._load(self.values)
            yield
        finally:
            self._load(kept)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Goes on from saved averages."""
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(values[name])

    def _load(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._live.items():
                parameter.copy_(values[name])


def _embedding_names(module: nn.Module) -> set[str]:
    names = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, child in module.named_modules()
        if isinstance(child, nn.Embedding)
    }
    return names | {name for name, _ in module.named_parameters() if name.endswith("positional_embedding")}
