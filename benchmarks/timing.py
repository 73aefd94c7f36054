"""Times that are fair to each other: every way in turn, again and again, and the median of each."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Literal

import torch

Clock = Literal["wall", "cpu"]
_CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--runs, --threads, --clock: where others compute too, CPU seconds of one thread are the fairest."""
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=tuple(_CLOCKS), default="wall")


def medians(ways: Mapping[str, Callable[[], object]], *, runs: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each way, of interleaved runs after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    now = _CLOCKS[clock]
    for way in ways.values():
        way()
    for _ in range(runs):
        for name, way in ways.items():
            began = now()
            way()
            times[name].append(now() - began)
    return {name: statistics.median(each) for name, each in times.items()}
