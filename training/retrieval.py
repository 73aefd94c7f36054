"""Does a caption find its own image?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RANKS = (1, 5, 10)
CAPTION_CHUNK = 1024
"""Captions compared with all images at a time: the whole matrix of 50,000 of each would take 10 GB."""


def caption_to_image_ranks(
    image_embeddings: Float[Tensor, "images embed"],
    text_embeddings: Float[Tensor, "captions embed"],
    image_of_caption: Int[Tensor, "captions"],
) -> Int[Tensor, "captions"]:
    """Place of each caption's image among all images, 1 for the nearest; ties count against the caption."""
    images, texts = image_embeddings.float(), text_embeddings.float()
    ranks = []
    for at in range(0, len(texts), CAPTION_CHUNK):
        similarity = texts[at : at + CAPTION_CHUNK] @ images.T
        own = similarity.gather(1, image_of_caption[at : at + CAPTION_CHUNK].unsqueeze(1))
        ranks.append((similarity >= own).sum(dim=1))
    return torch.cat(ranks)


def caption_to_image_recall(
    image_embeddings: Float[Tensor, "images embed"],
    text_embeddings: Float[Tensor, "captions embed"],
    image_of_caption: Int[Tensor, "captions"],
) -> dict[str, float]:
    """Percentage of captions whose image is among the 1, 5, 10 nearest of all images."""
    ranks = caption_to_image_ranks(image_embeddings, text_embeddings, image_of_caption)
    return {f"r@{k}": _percentage(ranks <= k) for k in RANKS}


def _percentage(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())
