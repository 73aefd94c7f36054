"""How many processors this process was granted, and torch's threads."""

import math
import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def available_cpus(*, cgroup: Path = CGROUP) -> int:
    """Processors that this process may use: its affinity, cut to the container's quota; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def limit_threads() -> None:
    """Keeps torch from more threads than processors granted; fewer, as by OMP_NUM_THREADS, stay fewer."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))


def _quota_v2(cgroup: Path) -> float | None:
    words = _read_words(cgroup / "cpu.max")
    return None if len(words) != 2 or words[0] == "max" else int(words[0]) / int(words[1])


def _quota_v1(cgroup: Path) -> float | None:
    quota, period = (_read_words(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
