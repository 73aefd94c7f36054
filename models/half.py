"""A captioner in bf16 for a GPU, half the memory to read for each token."""

import copy

import torch

from models.captioner import Captioner


@torch.inference_mode()
def in_bf16(captioner: Captioner) -> Captioner:
    """A copy for inference with image tower and decoder in bf16; mapping and text tower stay as they are.

    bf16 is summed in an order that depends on the batch, so that a caption can turn out differently in
    another batch where two words are nearly as likely.
    """
    visual = copy.deepcopy(captioner.clip.visual).requires_grad_(False).bfloat16()
    decoder = copy.deepcopy(captioner.decoder).requires_grad_(False).bfloat16()
    return Captioner(
        captioner.clip.with_visual(visual),
        captioner.mapping,
        decoder,
        tokenizer=captioner.tokenizer,
        bridge=captioner.bridge,
        config=captioner.config,
    ).eval()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this is a GPU with matrix units for bf16 (NVIDIA since Ampere)."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
