"""Which images come when, and which random numbers: pure functions of the seed and the position."""

from functools import lru_cache

import numpy as np
import torch


def batch_rows(position: int, *, total: int, batch_size: int, seed: int) -> np.ndarray:
    """The rows of the `position`-th batch since the start of training.

    Every epoch is its own shuffle; what is left of an epoch after whole batches waits for another one.
    """
    size = min(batch_size, total)
    per_epoch = total // size
    epoch, place = divmod(position, per_epoch)
    return _shuffle(total, seed, epoch)[place * size : (place + 1) * size]


def generator_at(*position: int, seed: int) -> torch.Generator:
    """A generator that depends on nothing but the seed and the position."""
    return torch.Generator().manual_seed(seed_at(*position, seed=seed))


def seed_at(*position: int, seed: int) -> int:
    """A 63-bit seed for a position, unrelated to those of its neighbours."""
    state = np.random.SeedSequence((seed, *position)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def total_steps(*, items: int, batch_size: int, accumulate: int, epochs: float, max_steps: int) -> int:
    """Optimizer steps in a run; at least one."""
    per_epoch = max(1, items // min(batch_size, items))
    steps = max(1, round(epochs * per_epoch / accumulate))
    return min(steps, max_steps) if max_steps else steps


@lru_cache(maxsize=4)
def _shuffle(total: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)
