"""What the image tower says of a batch of images, as everything after it takes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """What the image tower says of a batch of images.

    Args:
        embedding: the L2-normalised vector that captions are compared with.
        grid: the last feature map, one row for each cell, before pooling; None where the tower has none.
        norm: length of the embedding before it was normalised; None where it was not kept.
    """

    embedding: Float[Tensor, "batch embed"]
    grid: Float[Tensor, "batch cells channels"] | None = None
    norm: Float[Tensor, "batch"] | None = None

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index: slice | Tensor) -> "ImageFeatures":
        return self._changed(lambda part: part[index])

    def to(self, target: torch.device | torch.dtype | str) -> "ImageFeatures":
        return self._changed(lambda part: part.to(target))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        optional = [None if part is None else change(part) for part in (self.grid, self.norm)]
        return ImageFeatures(change(self.embedding), *optional)

    @staticmethod
    def cat(parts: Sequence["ImageFeatures"]) -> "ImageFeatures":
        """The parts one after the other; all of them have a grid or none, a norm or none."""
        grids = [part.grid for part in parts if part.grid is not None]
        norms = [part.norm for part in parts if part.norm is not None]
        return ImageFeatures(
            torch.cat([part.embedding for part in parts]),
            torch.cat(grids) if grids else None,
            torch.cat(norms) if norms else None,
        )
