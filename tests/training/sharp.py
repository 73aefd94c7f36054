"""Tiny captioners with favourite words, and what their captions are rewarded for."""

import torch

from models.captioner import Captioner
from models.decoder import CaptionDecoder
from training.rewards import ClipRewards
from training.sampling import Sampler

WORDS = ["dog", "cat", "snow", "red", "the"]


@torch.no_grad()
def sharpen(decoder: CaptionDecoder, eos_id: int, *, words: float = 15.0, end: float = 6.0) -> None:
    """Random decoders are all but uniform; this makes favourites, and end-of-text one of them.

    Args:
        words: factor on the logits.
        end: added to end-of-text's.
    """
    decoder.token_embedding.weight.mul_(words)
    row = decoder.token_embedding.weight[eos_id]
    decoder.norm.bias.add_(end * row / row.square().sum())


def prefix_of_two() -> torch.Tensor:
    """What the decoder reads of two images."""
    return torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(5))


def rewards_of_two(captioner: Captioner) -> ClipRewards:
    """Both rewards, of captions of two images that look like these texts."""
    images = captioner.clip.encode_captions(["the red dog", "a cat in the snow"]).detach()
    return ClipRewards(captioner, images, ("similarity", "contrastive"), 0.1)


def sampler_of(captioner: Captioner, *, max_tokens: int = 6, temperature: float = 1.0) -> Sampler:
    """Samples from the whole vocabulary."""
    return Sampler(captioner.tokenizer, captioner.tokenizer.pad_id, max_tokens, temperature)
