"""The number format of the model's weights, chosen by measuring it on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from models.captioner import Captioner
from models.decode import decode
from models.generation import GenerationOptions
from models.half import has_fast_bf16, in_bf16
from models.packing import Precision, can_pack, packed

Wanted = Literal["auto", "fp32", "bf16", "int8"]
IMAGES, BEAMS, TOKENS = 8, 4, 8
"""Work that is timed: a moderately full engine with the default options."""
RUNS = 3
WORTHWHILE = 1.1
"""int8 must be so much faster than fp32 to be taken; less is noise."""


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        measured_s: seconds of the timed work by format; empty where there was nothing to choose.
    """

    precision: Precision
    measured_s: Mapping[str, float]


@torch.inference_mode()
def with_speed(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    """The captioner in the format that is fastest here, or in the one that is wanted.

    auto is int8 where that was measured to be faster: as in fp32, a caption does not depend on the batch.
    bf16, faster in large batches, is for those who do not mind that it can. On a GPU with units for bf16
    auto is bf16; on other accelerators all stays as it is.

    Raises:
        ValueError: a format that this machine cannot run.
    """
    if captioner.device.type == "cuda":
        return _on_cuda(captioner, wanted)
    if captioner.device.type != "cpu" or wanted == "fp32":
        return captioner, Speed("fp32", {})
    if wanted != "auto":
        return packed(captioner, wanted), Speed(wanted, {})
    if not can_pack("int8"):
        return captioner, Speed("fp32", {})
    small = packed(captioner, "int8")
    measured = {"fp32": seconds(captioner), "int8": seconds(small)}
    if measured["int8"] * WORTHWHILE < measured["fp32"]:
        return small, Speed("int8", measured)
    return captioner, Speed("fp32", measured)


def _on_cuda(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    if wanted == "int8":
        raise ValueError("int8 is for CPUs; on a GPU the model runs in bf16 or fp32")
    if wanted == "fp32" or not has_fast_bf16(captioner.device):
        return captioner, Speed("fp32", {})
    return in_bf16(captioner), Speed("bf16", {})


def seconds(captioner: Captioner) -> float:
    """Least time of a few runs over grey images: what else the machine does only ever adds."""
    tokens = min(TOKENS, captioner.config.max_tokens)
    options = GenerationOptions(num_beams=BEAMS, min_tokens=tokens, max_tokens=tokens)
    pixels = torch.zeros(IMAGES, 3, captioner.clip.image_size, captioner.clip.image_size)
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        prefix = captioner.prefix(captioner.encode_image(pixels))
        decode(captioner.decoder, prefix, options, tokens=captioner.tokenizer, max_images=IMAGES)
        times.append(time.perf_counter() - began)
    return min(times[1:])
