"""A program for two processes under torchrun: what they exchange, checked in each of them."""

import torch
from torch import nn

from training import distributed


def main() -> None:
    """Ends with an error in the process that finds one."""
    distributed.start("cpu")
    rank = distributed.rank()
    assert distributed.num_ranks() == 2
    assert distributed.by_first_rank(lambda: f"rank {rank}") == "rank 0"
    assert distributed.added_up({"loss": float(rank)}) == {"loss": 1.0}
    assert [distributed.own_count(total) for total in (5, 1)] == [3 - rank, 1]
    rows = torch.full((2 + rank, 3), float(rank))  # of different number
    assert torch.equal(distributed.rows_of_others(rows), torch.full((3 - rank, 3), float(1 - rank)))
    _check_gradients(rank)


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
    main()
