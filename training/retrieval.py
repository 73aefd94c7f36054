"""Does a caption find its own image, and an image its captions?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RANKS = (1, 5, 10)


def caption_to_image_recall(
    image_embeddings: Float[Tensor, "images embed"],
    text_embeddings: Float[Tensor, "captions embed"],
    image_of_caption: Int[Tensor, "captions"],
) -> dict[str, float]:
    """Percentage of captions whose image is among the 1, 5, 10 nearest of all images; ties count against."""
    similarity = text_embeddings.float() @ image_embeddings.float().T
    own = similarity.gather(1, image_of_caption.unsqueeze(1))
    rank = (similarity >= own).sum(dim=1)
    return {f"r@{k}": _percentage(rank <= k) for k in RANKS}


def image_to_caption_recall(
    image_embeddings: Float[Tensor, "images embed"],
    text_embeddings: Float[Tensor, "captions embed"],
    image_of_caption: Int[Tensor, "captions"],
) -> dict[str, float]:
    """Percentage of images with one of their captions among the 1, 5, 10 nearest of all captions."""
    similarity = image_embeddings.float() @ text_embeddings.float().T
    is_own = image_of_caption.unsqueeze(0) == torch.arange(len(image_embeddings)).unsqueeze(1).to(
        image_of_caption
    )
    best_own = similarity.masked_fill(~is_own, float("-inf")).amax(dim=1, keepdim=True)
    rank = 1 + ((similarity >= best_own) & ~is_own).sum(dim=1)
    return {f"r@{k}": _percentage(rank <= k) for k in RANKS}


def _percentage(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())
