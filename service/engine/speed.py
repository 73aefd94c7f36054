"""The number format of the model's weights, chosen by measuring it on this machine."""

import math
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
PLAIN, PACKED = "fp32", "fp32 packed"
"""The same numbers: weights as they are, and laid out by oneDNN, which takes as much memory again."""


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        way: PACKED for fp32 laid out by oneDNN, else the format.
        measured_s: seconds of the timed work by way; empty where there was nothing to choose.
    """

    precision: Precision
    way: str
    measured_s: Mapping[str, float]


@torch.inference_mode()
def with_speed(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    """The captioner in the format that is fastest here, or in the one that is wanted.

    auto is int8 where that was measured to be faster: as in fp32, a caption does not depend on the batch.
    fp32 is in the layout that was measured to be faster.
    bf16, faster in large batches, is for those who do not mind that it can. On a GPU with units for bf16
    auto is bf16; on other accelerators all stays as it is.

    Raises:
        ValueError: a format that this machine cannot run.
    """
    if captioner.device.type == "cuda":
        return _on_cuda(captioner, wanted)
    if captioner.device.type != "cpu":
        return captioner, Speed("fp32", PLAIN, {})
    if wanted in ("bf16", "int8"):
        return packed(captioner, wanted), Speed(wanted, wanted, {})
    ways = in_fp32(captioner)
    if wanted == "auto" and can_pack("int8"):
        ways["int8"] = packed(captioner, "int8")
    if len(ways) == 1:
        return captioner, Speed("fp32", PLAIN, {})
    measured = {name: seconds(way) for name, way in ways.items()}
    full = min(ways.keys() - {"int8"}, key=measured.__getitem__)
    if measured.get("int8", math.inf) * WORTHWHILE < measured[full]:
        return ways["int8"], Speed("int8", "int8", measured)
    return ways[full], Speed("fp32", full, measured)


def in_fp32(captioner: Captioner) -> dict[str, Captioner]:
    """The captioner in fp32 in every layout that this machine has."""
    ways = {PLAIN: captioner}
    return ways | {PACKED: packed(captioner, "fp32")} if can_pack("fp32") else ways


def _on_cuda(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    if wanted == "int8":
        raise ValueError("int8 is for CPUs; on a GPU the model runs in bf16 or fp32")
    if wanted == "fp32" or not has_fast_bf16(captioner.device):
        return captioner, Speed("fp32", PLAIN, {})
    return in_bf16(captioner), Speed("bf16", "bf16", {})


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
