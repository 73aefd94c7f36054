"""What a saved state gives back to an optimizer, on the device where torch wants it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.config_parts import OptimConfig
from training.optim import build_optimizer, parameter_groups
from training.state import Counters, restore_state, save_state, states


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (False, "cpu")])
def test_step_is_counted_where_torch_counts_it(tmp_path: Path, fused: bool, device: str) -> None:
    """Beside the weights if fused, else on the CPU; "meta" stands for a GPU."""
    _trained(tmp_path)
    module = _Scaled().to("meta")
    optimizer = torch.optim.AdamW(parameter_groups(module, OptimConfig()))
    for group in optimizer.param_groups:
        group["fused"] = fused
    restore_state(states(tmp_path)[-1], module=module, optimizer=optimizer, average=None)
    for parameter in module.parameters():
        moments = optimizer.state[parameter]
        assert moments["step"].device.type == device
        assert moments["exp_avg"].device.type == moments["exp_avg_sq"].device.type == "meta"


def test_moments_and_step_are_what_they_were(tmp_path: Path) -> None:
    trained = _trained(tmp_path)
    module = _Scaled()
    optimizer = build_optimizer(module, OptimConfig())
    restore_state(states(tmp_path)[-1], module=module, optimizer=optimizer, average=None)
    for old, new in zip(trained.state.values(), optimizer.state.values(), strict=True):
        assert old.keys() == new.keys()
        for key, value in _tensors(old).items():
            torch.testing.assert_close(new[key], value, rtol=0, atol=0)


class _Scaled(nn.Module):
    """Has a parameter without dimensions, of the shape of a step count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(()))


def _trained(folder: Path) -> torch.optim.Optimizer:
    module = _Scaled()
    optimizer = build_optimizer(module, OptimConfig())
    for _ in range(2):
        (module.scale * module.linear(torch.ones(1, 3))).sum().backward()
        optimizer.step()
    save_state(folder, counters=Counters(step=2), module=module, optimizer=optimizer, average=None)
    return optimizer


def _tensors(state: Any) -> dict[str, torch.Tensor]:
    return dict(state)
