"""The highest scores of long rows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64
"""Scores looked at together; on a CPU a maximum over them is vectorised, torch's topk and argmax are not."""


def highest(
    scores: Float[Tensor, "rows vocab"], count: int
) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"]]:
    """As topk: the `count` highest scores of each row and where they stand, highest first.

    They stand in the `count` blocks with the highest maxima, or in what is left over behind the last block.
    """
    num_blocks = scores.shape[1] // BLOCK
    if scores.device.type != "cpu" or num_blocks < 2 * count:
        return scores.topk(count, dim=1)
    blocks = torch.unflatten(scores[:, : num_blocks * BLOCK], 1, (num_blocks, BLOCK))
    chosen = _highest_blocks(blocks.amax(dim=2), count)
    inside = blocks.gather(1, chosen.unsqueeze(2).expand(-1, -1, BLOCK)).flatten(1)
    values, places = torch.cat([inside, scores[:, num_blocks * BLOCK :]], dim=1).topk(count, dim=1)
    blocks_read = torch.cat([chosen, chosen.new_full((len(chosen), 1), num_blocks)], dim=1)
    return values, blocks_read.gather(1, places // BLOCK) * BLOCK + places % BLOCK


def _highest_blocks(maxima: Float[Tensor, "rows blocks"], count: int) -> Int[Tensor, "rows count"]:
    return maxima.argmax(dim=1, keepdim=True) if count == 1 else maxima.topk(count, dim=1).indices
