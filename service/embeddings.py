"""CLIP embeddings that a client computed elsewhere."""

import math

import torch
from torch import Tensor

from service.errors import InvalidEmbeddingError


def embedding_tensor(values: tuple[float, ...]) -> Tensor:
    """A posted CLIP embedding as the engine takes it: a unit vector."""
    vector = torch.tensor(values, dtype=torch.float32)
    length = float(vector.norm())
    if not math.isfinite(length) or length == 0.0:
        raise InvalidEmbeddingError(
            "the embedding has no direction: its numbers must be finite and not all zero"
        )
    return vector / length
