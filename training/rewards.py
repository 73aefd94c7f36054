"""What a caption is worth to its image, under CLIP."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.bridge import SoftRows
from models.captioner import Captioner
from models.similarity import clip_similarities, clip_similarity
from training import distributed


@dataclass(frozen=True)
class ClipRewards:
    """The rewards of captions of a batch of images, by name.

    Args:
        images: unit vectors of the images that this process has of the batch.
        names: which rewards: "similarity" is the cosine of caption and image, -1..1 (arXiv 2306.15111);
            "contrastive" is `log_probability_of_own_image`.
        temperature: of the contrastive reward.
    """

    captioner: Captioner
    images: Float[Tensor, "images embed"]
    names: tuple[str, ...]
    temperature: float

    def __call__(
        self, token_ids: Int[Tensor, "captions length"], soft_rows: SoftRows | None = None
    ) -> dict[str, Float[Tensor, "captions"]]:
        """Each reward of each caption; those of an image stand next to each other.

        Args:
            soft_rows: lets a gradient through to what the captions were sampled from.
        """
        texts = self.captioner.encode_token_ids(token_ids, soft_rows).float()
        rewards = {}
        if "similarity" in self.names:
            images = self.images.repeat_interleave(len(texts) // len(self.images), dim=0)
            rewards["similarity"] = clip_similarity(images, texts)
        if "contrastive" in self.names:
            rewards["contrastive"] = log_probability_of_own_image(
                self.images,
                texts,
                others=distributed.rows_of_others(self.images),
                temperature=self.temperature,
            )
        return rewards


def log_probability_of_own_image(
    images: Float[Tensor, "images embed"],
    texts: Float[Tensor, "captions embed"],
    *,
    others: Float[Tensor, "others embed"],
    temperature: float,
) -> Float[Tensor, "captions"]:
    """Log-probability of picking each caption's image out of the batch's images, at most 0.

    Only this direction: what all captions of the batch share earns nothing, what tells the image from its
    neighbours does.

    Args:
        others: images of the batch without captions here: other processes have them.
    """
    captions_per_image = len(texts) // len(images)
    log_probs = (clip_similarities(torch.cat([images, others]), texts).T / temperature).log_softmax(dim=1)
    own = torch.arange(len(images), device=texts.device).repeat_interleave(captions_per_image)
    return log_probs.gather(1, own.unsqueeze(1)).squeeze(1)
