"""How rows are put side by side."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.row_groups import WIDEST, RowGroups

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 9))
def test_each_row_has_one_place_and_its_group_is_of_its_image(counts: list[int], width: int) -> None:
    groups = RowGroups.of_width(counts, width=width, device=CPU)
    rows = torch.arange(sum(counts)).unsqueeze(1).float()
    assert torch.equal(groups.scatter(groups.gather(rows)), rows)
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    owners = images[groups.members]
    assert (owners == owners[:, :1]).all()
    assert len(groups.members) == sum(-(-count // width) for count in counts)


@pytest.mark.parametrize(
    ("counts", "prefix_length", "width"),
    [
        ([5] * 16, 59, 5),  # the default model
        ([5] * 16, 10, 1),  # ClipCap: measured to be no faster
        ([1] * 30, 59, 1),
        ([1] * 30 + [5], 59, 1),
        ([64], 1000, WIDEST),
    ],
)
def test_width_is_the_one_that_costs_least(counts: list[int], prefix_length: int, width: int) -> None:
    assert RowGroups.of(counts, prefix_length=prefix_length, device=CPU).width == width


def test_mask_shows_a_row_the_prefix_and_its_own_tokens() -> None:
    groups = RowGroups.of_width([2, 1], width=2, device=CPU)
    is_hidden = torch.tensor([[False, True], [False, False], [False, True]])
    mask = groups.mask(is_hidden, prefix_length=1, dtype=torch.float32)
    assert mask.shape == (2, 1, 2, 1 + 2 * 2)
    seen = [[[1, 1, 0, 0, 0], [1, 0, 0, 1, 1]], [[1, 1, 0, 0, 0], [1, 0, 0, 1, 0]]]
    assert torch.equal(mask.squeeze(1).exp(), torch.tensor(seen, dtype=torch.float32))
