"""The block-wise search against torch's own."""

import pytest
import torch

from models.top_scores import BLOCK, highest


@pytest.mark.parametrize("count", [1, 4, 10])
@pytest.mark.parametrize("vocab_size", [30, 20 * BLOCK, 40 * BLOCK + 17])
def test_highest_scores_are_those_that_a_full_search_finds(count: int, vocab_size: int) -> None:
    scores = torch.randn(7, vocab_size, generator=torch.Generator().manual_seed(0))
    scores[0, :] = -torch.inf
    scores[1, -3:] = 9.0 + torch.arange(3)
    scores[2, 5:8] = 9.0 + torch.arange(3)
    values, ids = highest(scores, count)
    torch.testing.assert_close(values, scores.topk(count, dim=1).values, atol=0, rtol=0)
    torch.testing.assert_close(scores.gather(1, ids), values, atol=0, rtol=0)
    assert all(len(set(row)) == count for row in ids[1:].tolist())


def test_first_of_equal_scores_is_taken_as_argmax_does() -> None:
    scores = torch.zeros(3, 5 * BLOCK)
    scores[1, [100, 200]] = 1.0
    assert highest(scores, 1)[1].squeeze(1).tolist() == scores.argmax(dim=1).tolist()
