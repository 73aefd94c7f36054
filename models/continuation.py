"""What a caption goes on from when its decoder learns: keys and values with their gradients."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ReadPrefixes:
    """What captions go on from, a row for each image or caption.

    Args:
        last: outputs of the last position.
        keys_values: of each layer.
    """

    last: Float[Tensor, "rows width"]
    keys_values: tuple[tuple[Tensor, Tensor], ...]

    def for_captions(self, owners: Int[Tensor, "captions"]) -> Self:
        """A row for each caption, given the row of its image."""
        return type(self)(
            self.last.index_select(0, owners),
            tuple(
                (keys.index_select(0, owners), values.index_select(0, owners))
                for keys, values in self.keys_values
            ),
        )

    def repeated(self, captions_per_image: int) -> Self:
        """A row for each caption, as many for each image, next to each other."""
        if captions_per_image == 1:
            return self
        images = torch.arange(len(self.last), device=self.last.device)
        return self.for_captions(images.repeat_interleave(captions_per_image))


@dataclass(frozen=True)
class Continuation:
    """Differentiable keys and values of all that was read; the last `num_tokens` are tokens."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    num_tokens: int = 0
