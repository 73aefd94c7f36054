"""Captions of one image side by side, so that attention gathers the image's prefix once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

WIDEST = 8
"""Rows of a group at most: each row's product is with the tokens of all of them."""
TYPICAL_TOKENS = 12
"""A caption halfway, in the middle of its decoding."""
PRODUCT_COST = 0.2
"""Of multiplying a row with a cell, in cells gathered (16 images of 5 beams, prefixes of 10 and 59, AVX2)."""


@dataclass(frozen=True)
class RowGroups:
    """Rows with the same prefix, in groups of one width.

    Args:
        members: places of the rows, each group filled up with its last.
        places: where in the flattened `members` each row stands.
    """

    members: Int[Tensor, "groups width"]
    places: Int[Tensor, "rows"]

    @classmethod
    def of(cls, counts: Sequence[int], *, prefix_length: int, device: torch.device) -> Self:
        """Groups of the width that costs least; 1 where prefixes are short.

        Args:
            counts: rows of each image; they stand one after the other.
        """
        width = min(
            range(1, min(WIDEST, max(counts)) + 1),
            key=lambda width: _cost(counts, width=width, prefix_length=prefix_length),
        )
        return cls.of_width(counts, width=width, device=device)

    @classmethod
    def of_width(cls, counts: Sequence[int], *, width: int, device: torch.device) -> Self:
        """Groups of up to so many rows of an image."""
        members: list[list[int]] = []
        places: list[int] = []
        for count in counts:
            first = len(places)
            places += range(len(members) * width, len(members) * width + count)
            last = first + count - 1
            members += [
                [min(place, last) for place in range(start, start + width)]
                for start in range(first, first + count, width)
            ]
        return cls(torch.tensor(members, device=device), torch.tensor(places, device=device))

    @classmethod
    def alone(cls, rows: int, device: torch.device) -> Self:
        """Each row a group of its own."""
        places = torch.arange(rows, device=device)
        return cls(places.unsqueeze(1), places)

    @property
    def width(self) -> int:
        return self.members.shape[1]

    def gather(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "groups members width"]:
        """What belongs to rows, by group."""
        grouped: Tensor = rows.unsqueeze(1) if self.width == 1 else rows[self.members]
        return grouped

    def scatter(self, grouped: Float[Tensor, "groups members width"]) -> Float[Tensor, "rows width"]:
        """The reverse of gather."""
        flat = grouped.flatten(0, 1)
        return flat if self.width == 1 else flat[self.places]

    def mask(
        self, is_hidden: Bool[Tensor, "rows tokens"], *, prefix_length: int, dtype: torch.dtype
    ) -> Float[Tensor, "groups 1 members cells"]:
        """Added to attention weights: a row looks at the prefix and at those of its own tokens not hidden.

        Returns:
            For each member the prefix's cells, then the tokens of all members one after the other.
        """
        is_own = torch.eye(self.width, dtype=torch.bool, device=is_hidden.device).unsqueeze(2)
        is_closed = is_hidden[self.members].unsqueeze(1) | ~is_own
        is_closed = functional.pad(is_closed.flatten(2), (prefix_length, 0))
        mask = torch.zeros_like(is_closed, dtype=dtype).masked_fill_(is_closed, -torch.inf)
        return mask.unsqueeze(1)


def _cost(counts: Sequence[int], *, width: int, prefix_length: int) -> float:
    groups = sum(-(-count // width) for count in counts)
    return groups * (prefix_length + width * TYPICAL_TOKENS) * (1 + width * PRODUCT_COST)
