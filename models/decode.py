"""Captions of a whole list of images, by a decoding batch that is kept full."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoder import CaptionDecoder
from models.decoding import DecodingBatch
from models.generation import Candidate, GenerationOptions, SpecialTokens


@torch.inference_mode()
def decode(
    decoder: CaptionDecoder,
    prefixes: Float[Tensor, "images prefix width"],
    options: GenerationOptions,
    *,
    tokens: SpecialTokens,
    max_images: int = 32,
) -> list[list[Candidate]]:
    """Captions of many images, the batch kept full; `prefixes` may live on another device than the decoder.

    Raises:
        DecodingError: the model's logits are not finite for some image.
    """
    batch = DecodingBatch(
        decoder,
        tokens,
        max_images=max_images,
        max_rows=max_images * options.num_rows,
        max_tokens=options.max_tokens,
    )
    captions: list[list[Candidate]] = [[] for _ in range(len(prefixes))]
    places: dict[int, int] = {}
    added = 0
    while added < len(prefixes) or places:
        joining = prefixes[added : added + max_images - batch.num_images].to(batch.device)
        if len(joining):
            tickets = batch.add(joining, [options] * len(joining))
            places.update(zip(tickets, range(added, added + len(joining)), strict=True))
            added += len(joining)
        for done in batch.step():
            if done.error is not None:
                raise done.error
            captions[places.pop(done.ticket)] = list(done.candidates)
    return captions
