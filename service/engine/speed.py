"""Number formats of the model's parts, chosen by measuring them on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from models.captioner import Captioner
from models.decode import decode
from models.decoder import CaptionDecoder
from models.generation import GenerationOptions
from models.packing import Precision, can_pack, packed

Wanted = Literal["auto", "fp32", "bf16", "int8"]
IMAGES, BEAMS, TOKENS = 8, 4, 6
"""Work that is timed: a moderately full engine with the default options."""
RUNS = 3
WORTHWHILE = 1.1
"""bf16 must be so much faster than fp32 to be taken; less is noise."""


@dataclass(frozen=True)
class Speed:
    """What was chosen, and why.

    Args:
        decoder: format of the decoder's weights.
        image_tower: of CLIP's image tower. Its text tower, which gives the scores, stays in fp32.
        measured_s: seconds of the timed work by "part format"; empty where nothing was measured.
    """

    decoder: Precision
    image_tower: Literal["fp32", "bf16"]
    measured_s: Mapping[str, float]


@torch.inference_mode()
def with_speed(captioner: Captioner, wanted: Wanted) -> tuple[Captioner, Speed]:
    """The captioner in the formats that are fastest here, or in those that are wanted.

    auto takes bf16 where it was measured to be faster, part by part; int8, which changes captions more, is
    for those who ask for it. On an accelerator everything stays as it is.

    Raises:
        ValueError: a format that this machine cannot run.
    """
    if captioner.device.type != "cpu" or wanted == "fp32":
        return captioner, Speed("fp32", "fp32", {})
    if wanted != "auto":
        tower: Literal["fp32", "bf16"] = "bf16" if can_pack("bf16") else "fp32"
        return _converted(captioner, wanted, tower), Speed(wanted, tower, {})
    if not can_pack("bf16"):
        return captioner, Speed("fp32", "fp32", {})
    half = _converted(captioner, "bf16", "bf16")
    pixels = torch.zeros(IMAGES, 3, captioner.clip.image_size, captioner.clip.image_size)
    prefix = captioner.prefix(captioner.encode_image(pixels))
    measured = {
        "decoder fp32": _seconds(lambda: _decode(captioner.decoder, prefix, captioner)),
        "decoder bf16": _seconds(lambda: _decode(half.decoder, prefix, captioner)),
        "image tower fp32": _seconds(lambda: captioner.encode_image(pixels)),
        "image tower bf16": _seconds(lambda: half.encode_image(pixels)),
    }
    decoder: Precision = _choice(measured, "decoder")
    image_tower = _choice(measured, "image tower")
    return _converted(captioner, decoder, image_tower), Speed(decoder, image_tower, measured)


def _converted(captioner: Captioner, decoder: Precision, image_tower: Literal["fp32", "bf16"]) -> Captioner:
    if decoder == image_tower == "fp32":
        return captioner
    return Captioner(
        captioner.clip.with_image_tower_in(torch.bfloat16) if image_tower == "bf16" else captioner.clip,
        captioner.mapping,
        packed(captioner.decoder, decoder) if decoder != "fp32" else captioner.decoder,
        tokenizer=captioner.tokenizer,
        bridge=captioner.bridge,
        config=captioner.config,
    ).eval()


def _choice(measured: Mapping[str, float], part: str) -> Literal["fp32", "bf16"]:
    return "bf16" if measured[f"{part} bf16"] * WORTHWHILE < measured[f"{part} fp32"] else "fp32"


def _seconds(run: Callable[[], object]) -> float:
    """Least time of a few runs: what others do on the machine only ever adds."""
    run()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _decode(decoder: CaptionDecoder, prefix: torch.Tensor, captioner: Captioner) -> None:
    tokens = min(TOKENS, captioner.config.max_tokens)
    options = GenerationOptions(num_beams=BEAMS, min_tokens=tokens, max_tokens=tokens)
    decode(decoder, prefix, options, tokens=captioner.tokenizer, max_images=len(prefix))
