"""A captioner for inference on a CPU: decoder and mapping in one format, each tower in what suits it."""

import copy
import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional

from models.captioner import Captioner
from models.clip import ClipEncoder
from models.fused_convolution import fuse_convolutions
from models.packed_transformer import pack_transformer
from models.packing import (
    ExactLinear,
    PackedLinear,
    Precision,
    can_pack,
    pack_linears,
    packed_decoder,
    require_layer,
)

log = logging.getLogger(__name__)
Tower = TypeVar("Tower", bound=nn.Module)
LEAST_COSINE = 0.99
"""Of what an int8 transformer makes of pictures and texts with what it makes of them in fp32."""
TEXTS = ("A dog runs through the snow.", "Two people on a street at night", "a bowl of fruit", "7 red kites")
"""Tried on the text tower, as soft blots of colour are on the image tower."""


@torch.inference_mode()
def packed(captioner: Captioner, precision: Precision) -> Captioner:
    """A copy for inference on a CPU, which cannot be trained or saved; what stays as it is is shared.

    Decoder and mapping are in the format asked for. Of the image tower, convolutions are in bf16 where the
    processor has it and fp32 is not asked for: their results do not depend on the batch; elsewhere they are
    fused. CLIP's transformers are in int8 where that is asked for and their embeddings stay the same but for
    LEAST_COSINE, and the image tower's in bf16 where that is asked for; else they stay in fp32.

    Raises:
        ValueError: `can_pack` says no.
    """
    mapping = copy.deepcopy(captioner.mapping).requires_grad_(False)
    pack_linears(mapping, require_layer(precision))
    return Captioner(
        _packed_clip(captioner.clip, precision),
        mapping,
        packed_decoder(captioner.decoder, precision),
        tokenizer=captioner.tokenizer,
        bridge=captioner.bridge,
        config=captioner.config,
    ).eval()


def _packed_clip(clip: ClipEncoder, precision: Precision) -> ClipEncoder:
    if precision == "bf16":
        half = _frozen_copy(clip.visual)
        half.bfloat16()
        pack_linears(half, PackedLinear)
        return clip.with_visual(half)
    if _is_transformer(clip.visual):
        fast = clip if precision == "fp32" else _with_int8_visual(clip)
    elif isinstance(clip.visual, TimmModel):
        fast = clip.with_visual(_packed_convolutions(clip.visual, precision))
    else:
        fast = clip
    return fast if precision == "fp32" else _with_int8_text(fast)


def _is_transformer(visual: nn.Module) -> bool:
    """Its one convolution, if any, cuts the image into patches."""
    return sum(isinstance(layer, nn.Conv2d) for layer in visual.modules()) <= 1


def _with_int8_visual(clip: ClipEncoder) -> ClipEncoder:
    visual, pixels = _frozen_copy(clip.visual), _blots(clip.image_size)
    pack_transformer(visual, require_layer("int8"))
    fast = clip.with_visual(visual)
    return fast if _agrees(fast, clip, lambda one: one.encode_image(pixels).embedding) else clip


def _with_int8_text(clip: ClipEncoder) -> ClipEncoder:
    transformer = _frozen_copy(clip.text.transformer)
    pack_transformer(transformer, require_layer("int8"))
    fast = clip.with_text_transformer(transformer)
    return fast if _agrees(fast, clip, lambda one: one.encode_captions(TEXTS)) else clip


def _agrees(fast: ClipEncoder, plain: ClipEncoder, encode: Callable[[ClipEncoder], Tensor]) -> bool:
    """Whether a packed encoder works at all and its embeddings keep LEAST_COSINE."""
    try:
        seen = encode(fast)
    except (RuntimeError, AttributeError):  # some towers read their layers' weights by name
        log.warning("a tower of %s does not run in int8; it stays in fp32", plain.name)
        return False
    cosine = float((seen * encode(plain)).sum(dim=-1).min())
    if not cosine >= LEAST_COSINE:
        log.warning(
            "a tower of %s loses too much in int8 (cosine %.3f); it stays in fp32", plain.name, cosine
        )
        return False
    return True


def _blots(edge: int) -> Tensor:
    """Four normalised pictures, each from a few random colours."""
    colours = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(colours, size=(edge, edge), mode="bicubic")


def _packed_convolutions(visual: TimmModel, precision: Precision) -> nn.Module:
    in_bf16 = precision == "int8" and can_pack("bf16")
    tower = visual if in_bf16 else _fused(visual)
    if precision == "fp32":
        return tower  # type: ignore[no-any-return] # open_clip has no types
    copied: nn.Module = _frozen_copy(tower)
    if in_bf16:
        copied.get_submodule("trunk").bfloat16()
    pack_linears(copied, ExactLinear)
    return copied


def _frozen_copy(tower: Tower) -> Tower:
    return copy.deepcopy(tower).eval().requires_grad_(False)


def _fused(visual: TimmModel) -> TimmModel:
    """A tower of fused convolutions; the same one where oneDNN is missing, or where that would see otherwise.

    That is so where modules run in another order than they are registered in.
    """
    copied = _frozen_copy(visual)
    if not can_pack("fp32") or not fuse_convolutions(copied.trunk):
        return visual
    pixels = torch.randn(2, 3, *visual.image_size, generator=torch.Generator().manual_seed(0))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    plain = visual.trunk.forward_features(pixels)
    try:
        difference = (copied.trunk.forward_features(pixels) - plain).norm()
    except (RuntimeError, AttributeError):
        return visual
    return copied if difference < 1e-3 * plain.norm() else visual
