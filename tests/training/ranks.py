"""A program for two processes under torchrun: what they exchange and decide, checked in each of them."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.training.toy_stage import LOOP, OPTIM, ToyStage
from training import distributed, loop
from training.data import PROBLEMS, Problems
from training.state import save_state


def main(folder: Path) -> None:
    """Ends with an error in the process that finds one."""
    distributed.start("cpu")
    rank = distributed.rank()
    assert distributed.num_ranks() == 2
    assert distributed.by_first_rank(lambda: f"rank {rank}") == "rank 0"
    assert distributed.added_up({"loss": float(rank)}) == {"loss": 1.0}
    own = {"loss": 1.0} if rank else {"loss": 1.0, "contrastive": 2.0}  # a share without a part of the loss
    assert list(distributed.added_up(own).items()) == [("loss", 2.0), ("contrastive", 2.0)]
    assert [distributed.own_count(total) for total in (5, 1)] == [3 - rank, 1]
    rows = torch.full((2 + rank, 3), float(rank))  # of different number
    assert torch.equal(distributed.rows_of_others(rows), torch.full((3 - rank, 3), float(1 - rank)))
    _check_gradients(rank)
    _check_report(folder, rank)
    _check_end_of_time(folder)


def _check_report(folder: Path, rank: int) -> None:
    problems = Problems()
    problems.add("missing image", f"seen by rank {rank}")
    problems.report(folder)
    distributed.wait_for_all()
    assert "rank 0" in (folder / PROBLEMS).read_text()


def _check_end_of_time(folder: Path) -> None:
    """The second process waits in its steps for the slow disk of the first: its own clock is ahead."""

    def slow_save(*args: Any, **kwargs: Any) -> Path:
        time.sleep(0.1)
        return save_state(*args, **kwargs)

    loop.save_state = slow_save  # type: ignore[attr-defined]
    limited = replace(LOOP, epochs=100, save_every=1, evaluate_every=0, max_minutes=0.01)
    result = loop.train(ToyStage(pause_s=0.01), optim=OPTIM, loop=limited, out=folder / "run", resume=False)
    assert result.step < 500
    assert distributed.added_up({"step": result.step})["step"] == 2 * result.step


def _check_gradients(rank: int) -> None:
    in_both, in_one, in_none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    in_both.grad = torch.tensor([1.0, rank])
    if rank == 1:
        in_one.grad = torch.tensor([5.0, 6.0])
    distributed.add_up_gradients([in_both, in_one, in_none])
    assert in_both.grad.tolist() == [2.0, 1.0]
    assert in_one.grad is not None
    assert in_one.grad.tolist() == [5.0, 6.0]
    assert in_none.grad is None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
