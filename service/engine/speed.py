"""The number format of the model's weights, chosen by measuring it on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from models.captioner import Captioner
from models.decode import decode
from models.generation import GenerationOptions
from models.half import has_fast_bf16, in_bf16
from models.packed_captioner import packed
from models.packing import Precision, can_pack

Way = Literal["fp32", "fp32 packed", "bf16", "int8"]
"""Packed: laid out by oneDNN, the same numbers but for their last digits, for as much memory again."""
Wanted = Literal["auto"] | Way
Name = TypeVar("Name", bound=str)
IMAGES, BEAMS, TOKENS = 8, 4, 8
"""Work that is timed: a moderately full engine with the default options."""
RUNS = 3
WORTHWHILE = 1.1
"""Another layout or format must be so much faster to be taken; less is noise."""


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        way: the format, and in fp32 the layout; wanting it gives the same again without measuring.
        measured_s: seconds of the timed work by way; empty where there was nothing to choose.
    """

    way: Way
    measured_s: Mapping[Way, float]

    @property
    def precision(self) -> Precision:
        """The number format alone."""
        return "fp32" if self.way == "fp32 packed" else self.way


@torch.inference_mode()
def with_speed(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    """The captioner in the format that is fastest here, or in the one that is wanted.

    auto is packed fp32 or int8 where that was measured to be clearly faster: there the batch changes the last
    digits of fp32 sums, and by them one int8 input now and then (models/packing.py). bf16, faster in large
    batches, is for those who do not mind that a caption can depend on what else is in the batch. On a GPU
    with units for bf16 auto is bf16; on other accelerators all stays as it is.

    Raises:
        ValueError: a format that this machine cannot run.
    """
    check_precision(wanted, captioner.device)
    if captioner.device.type == "cuda":
        return _on_cuda(captioner, wanted)
    if captioner.device.type != "cpu" or wanted == "fp32":
        return captioner, Speed("fp32", {})
    if wanted != "auto":
        asked = Speed(wanted, {})
        return packed(captioner, asked.precision), asked
    ways = in_fp32(captioner)
    if can_pack("int8"):
        ways["int8"] = packed(captioner, "int8")
    if len(ways) == 1:
        return captioner, Speed("fp32", {})
    measured = compared(ways)
    chosen: Way = "fp32"
    for way in ways:
        chosen = way if measured[way] * WORTHWHILE < measured[chosen] else chosen
    return ways[chosen], Speed(chosen, measured)


def check_precision(wanted: Wanted, device: torch.device) -> None:
    """Raises ValueError for a format that this machine cannot run."""
    if wanted == "int8" and device.type == "cuda":
        raise ValueError("int8 is for CPUs; on a GPU the model runs in bf16 or fp32")
    if wanted in ("bf16", "int8") and device.type == "cpu" and not can_pack(wanted):
        raise ValueError(f"this processor cannot run the model in {wanted}; fp32 and auto always work")


def in_fp32(captioner: Captioner) -> dict[Way, Captioner]:
    """The captioner in fp32 in every layout that this machine has."""
    ways: dict[Way, Captioner] = {"fp32": captioner}
    return ways | {"fp32 packed": packed(captioner, "fp32")} if can_pack("fp32") else ways


def _on_cuda(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    if wanted in ("fp32", "fp32 packed") or not has_fast_bf16(captioner.device):
        return captioner, Speed("fp32", {})
    return in_bf16(captioner), Speed("bf16", {})


def compared(ways: Mapping[Name, Captioner]) -> dict[Name, float]:
    """Least time of each in a few rounds, taking turns: what else the machine does only ever adds."""
    rounds = [{way: seconds(one) for way, one in ways.items()} for _ in range(RUNS + 1)]
    return {way: min(one[way] for one in rounds[1:]) for way in ways}


def seconds(captioner: Captioner) -> float:
    """One run over grey images: every stage of the engine."""
    tokens = min(TOKENS, captioner.config.max_tokens)
    options = GenerationOptions(num_beams=BEAMS, num_captions=BEAMS, min_tokens=tokens, max_tokens=tokens)
    pixels = torch.zeros(IMAGES, 3, captioner.clip.image_size, captioner.clip.image_size)
    began = time.perf_counter()
    prefix = captioner.prefix(captioner.encode_image(pixels))
    images = decode(captioner.decoder, prefix, options, tokens=captioner.tokenizer, max_images=IMAGES)
    captions = [
        (at, captioner.tokenizer.decode(one.token_ids)) for at, image in enumerate(images) for one in image
    ]
    captioner.clip.encode_captions([f"{at} {text}" for at, text in captions])  # grey images are all alike
    return time.perf_counter() - began
