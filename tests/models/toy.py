"""A toy decoder whose random captions differ, end at various lengths and leave no near ties."""

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import CaptionDecoder

VOCAB, WIDTH, PREFIX, MAX_TOKENS = 40, 32, 4, 16


class ToyTokens:
    """Special tokens of the toy vocabulary."""

    eos_id = 39
    never_generated = (38,)


def toy_decoder(*, closing_ids: tuple[int, ...] = ()) -> CaptionDecoder:
    """Two layers, their weights far larger than a fresh model's: it would say the same of every image."""
    torch.manual_seed(0)
    config = DecoderConfig(
        "clip",
        vocab_size=VOCAB,
        width=WIDTH,
        layers=2,
        heads=4,
        max_length=PREFIX + MAX_TOKENS,
        closing_ids=closing_ids,
    )
    decoder = CaptionDecoder(config, prefix_length=PREFIX).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(12)
    return decoder


def toy_prefixes(count: int, *, seed: int = 1) -> Tensor:
    return torch.randn(count, PREFIX, WIDTH, generator=torch.Generator().manual_seed(seed))
