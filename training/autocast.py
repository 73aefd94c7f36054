"""The number format of matrix products in training: bf16 where the machine is fast in it."""

import time
from contextlib import AbstractContextManager
from functools import cache

import torch
from torch import Tensor

from models.half import has_fast_bf16
from training.config_parts import Precision

_SIDE, _RUNS = 256, 5


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Runs matrix products in bf16 if asked for; "auto" asks for it where `is_fast_in_bf16`."""
    enabled = precision == "bf16" or (precision == "auto" and is_fast_in_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@cache
def is_fast_in_bf16(device: torch.device) -> bool:
    """A GPU says so itself; a CPU is measured, in some 0.2 s at most.

    Two cores of a Zen 3, which has AVX2 only, multiplied at 125 GFLOP/s in fp32 and at 1 in bf16.
    """
    if device.type == "cuda":
        return has_fast_bf16(device)
    full = torch.ones(_SIDE, _SIDE, device=device)
    return _least_seconds(full.bfloat16()) < _least_seconds(full)


def _least_seconds(x: Tensor) -> float:
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        x @ x
        times.append(time.perf_counter() - began)
    return min(times)
