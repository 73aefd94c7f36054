"""Several processes train one model: each takes its share of every batch, and they add up their gradients.

torchrun says how many there are; without it there is one, the first, and nothing here has an effect.
Not DistributedDataParallel: that hooks into one forward, and a stage calls several methods of several parts.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, distributed

from training.toml_reader import TrainingConfigError

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(hours=24)
"""The others wait while the first process encodes all photos or evaluates; torch's own limit is minutes."""


def start(device: str) -> torch.device:
    """The device that this process trains on; joins the other processes that torchrun started.

    Args:
        device: torch's name of it; "auto": where there are GPUs one for each process, else the CPU.

    Raises:
        TrainingConfigError: no such device here.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        # Else convolutions in fp32 round to TF32, and features and evaluations are not those of the service.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group(timeout=LONGEST_WAIT)  # gloo for the CPU, NCCL for GPUs
        atexit.register(distributed.destroy_process_group)
    return chosen


def rank() -> int:
    """The number of this process; 0 is the first, which alone logs, evaluates and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_share(rows: np.ndarray) -> np.ndarray:
    """This process's part of a batch; parts differ by one row at most.

    Raises:
        TrainingConfigError: fewer rows than processes.
    """
    if len(rows) < num_ranks():
        raise TrainingConfigError(
            "loop.batch_size",
            [
                f"gives {len(rows)} images a batch; {num_ranks()} processes share it: "
                "raise loop.batch_size or start fewer processes"
            ],
        )
    return np.array_split(rows, num_ranks())[rank()]


def own_count(total: int) -> int:
    """This process's part of a number of draws that all make together; at least 1."""
    return max(1, len(np.array_split(np.arange(total), num_ranks())[rank()]))


def rows_of_others(rows: Float[Tensor, "own width"]) -> Float[Tensor, "others width"]:
    """The rows that the other processes have, without a gradient; none for a process alone."""
    if num_ranks() == 1:
        return rows[:0]
    gathered: list[Tensor] = [rows] * num_ranks()
    distributed.all_gather_object(gathered, rows.detach().cpu())
    return torch.cat([part for number, part in enumerate(gathered) if number != rank()]).to(rows.device)


def add_up_gradients(parameters: Sequence[Tensor]) -> None:
    """Every process gets the sum of all gradients; a parameter that none has a gradient for stays without."""
    if num_ranks() == 1:
        return
    has_gradient = torch.tensor(
        [parameter.grad is not None for parameter in parameters],
        dtype=torch.int32,
        device=parameters[0].device,
    )
    distributed.all_reduce(has_gradient, distributed.ReduceOp.MAX)
    running = []
    for parameter, is_wanted in zip(parameters, has_gradient.tolist(), strict=True):
        if is_wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            running.append(distributed.all_reduce(parameter.grad, async_op=True))
    for reduction in running:
        reduction.wait()


def added_up(values: Mapping[str, float]) -> dict[str, float]:
    """The sums over all processes of named numbers; a name that some lack adds nothing there."""
    if num_ranks() == 1:
        return dict(values)
    gathered: list[dict[str, float]] = [{}] * num_ranks()
    distributed.all_gather_object(gathered, dict(values))
    names = dict.fromkeys(name for own in gathered for name in own)  # in one order everywhere
    return {name: sum(own.get(name, 0.0) for own in gathered) for name in names}


def by_first_rank(action: Callable[[], Value]) -> Value:
    """Does something in the first process alone; all return together, with its result."""
    if num_ranks() == 1:
        return action()
    result = [action() if rank() == 0 else None]
    distributed.broadcast_object_list(result)
    distributed.barrier()
    return result[0]  # type: ignore[return-value]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first process does what is inside; then the others do, and find the files that it has written."""
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0 and num_ranks() > 1:
        distributed.barrier()


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if num_ranks() > 1:
        distributed.barrier()


def _device(name: str) -> torch.device:
    own_gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name == "auto":
        return torch.device(own_gpu if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(own_gpu if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise TrainingConfigError(
            "loop.device", [f"is {name!r}, which cannot be used here: {reason}"]
        ) from error
    return device
