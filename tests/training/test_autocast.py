"""Matrix products run in the format asked for, and "auto" is the faster one."""

import time

import pytest
import torch
from torch.nn import functional

from training import autocast as module
from training.autocast import autocast, is_fast_in_bf16
from training.config_parts import Precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _measured_anew() -> None:
    is_fast_in_bf16.cache_clear()


def product_format(precision: Precision) -> torch.dtype:
    with autocast(CPU, precision):
        return functional.linear(torch.ones(2, 4), torch.ones(3, 4)).dtype


def test_format_is_the_one_asked_for() -> None:
    assert product_format("fp32") == torch.float32
    assert product_format("bf16") == torch.bfloat16


@pytest.mark.parametrize(("is_fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bf16_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(module, "is_fast_in_bf16", lambda device: is_fast)
    assert product_format("auto") == expected


def test_the_processor_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[torch.dtype] = []

    def least_seconds(x: torch.Tensor) -> float:
        times.append(x.dtype)
        return 1.0 if x.dtype == torch.bfloat16 else 2.0

    monkeypatch.setattr(module, "_least_seconds", least_seconds)
    assert is_fast_in_bf16(CPU)
    assert is_fast_in_bf16(CPU)
    assert times == [torch.bfloat16, torch.float32]


def test_times_are_of_real_products() -> None:
    began = time.perf_counter()
    assert 0 < module._least_seconds(torch.ones(8, 8)) <= time.perf_counter() - began
