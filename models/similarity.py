"""How well a caption fits an image, by CLIP."""

import torch
from jaxtyping import Float
from torch import Tensor


def clip_similarity(
    image_embeddings: Float[Tensor, "batch embed"], text_embeddings: Float[Tensor, "batch embed"]
) -> Float[Tensor, "batch"]:
    """Cosine of each pair of unit vectors, -1..1."""
    return (image_embeddings * text_embeddings).sum(dim=-1)


def clip_similarities(
    image_embeddings: Float[Tensor, "images embed"], text_embeddings: Float[Tensor, "texts embed"]
) -> Float[Tensor, "images texts"]:
    """Cosine of all pairs of unit vectors, -1..1.

    In float32 under autocast too: divided by CLIP's temperature of 0.01, bfloat16's rounding would move a
    logit by 0.2.
    """
    with torch.autocast(image_embeddings.device.type, enabled=False):
        return image_embeddings.float() @ text_embeddings.float().T


def clip_score(similarity: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """CLIPScore's scale, 2.5 x max(cos, 0): 0..2.5 (arXiv 2104.08718)."""
    return 2.5 * torch.clamp(similarity, min=0.0)
