"""The first pass through the model, which is slow, before the first caller comes."""

import torch

from models.captioner import Captioner
from models.decode import decode
from models.generation import GenerationOptions


@torch.inference_mode()
def warm_up(captioner: Captioner, *, encode_batch: int) -> None:
    """Runs every stage on grey images: one and a full batch of them, by beam search and greedily."""
    edge = captioner.clip.preprocess.image_size
    max_tokens = min(4, captioner.config.max_tokens)
    for count in sorted({1, encode_batch}):
        pixels = torch.full((count, 3, edge, edge), 128, dtype=torch.uint8, device=captioner.device)
        features = captioner.encode_image(captioner.clip.preprocess.normalize(pixels))
        prefixes = captioner.prefix(features)
        for options in (
            GenerationOptions(max_tokens=max_tokens),
            GenerationOptions("greedy", max_tokens=max_tokens),
        ):
            decode(captioner.decoder, prefixes, options, tokens=captioner.tokenizer, max_images=count)
        captioner.clip.encode_captions([f"{at} warm stoves" for at in range(count)])
