"""How well a caption fits an image, by CLIP."""

import torch
from jaxtyping import Float
from torch import Tensor


def clip_similarity(
    image_embeddings: Float[Tensor, "batch embed"], text_embeddings: Float[Tensor, "batch embed"]
) -> Float[Tensor, "batch"]:
    """Cosine of each pair of unit vectors, -1..1."""
    return (image_embeddings * text_embeddings).sum(dim=-1)


def clip_score(similarity: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """CLIPScore's scale, 2.5 x max(cos, 0): 0..2.5 (arXiv 2104.08718)."""
    return 2.5 * torch.clamp(similarity, min=0.0)
