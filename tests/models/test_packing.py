"""Packed decoders against the plain one: close to it, and blind to what else is in the batch."""

import copy
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from open_clip.timm_model import TimmModel
from torch.nn import functional

from models import packing
from models.checkpoint import load_captioner
from models.config import MappingConfig
from models.decode import decode
from models.fused_convolution import FusedConvolution
from models.generation import GenerationOptions
from models.image_features import ImageFeatures
from models.manifest import DEFAULT_CHECKPOINT
from models.packing import (
    REDUCED_WEIGHT_MAX,
    WEIGHT_MAX,
    ExactLinear,
    Int8Linear,
    Layer,
    PackedLinear,
    Precision,
    can_pack,
    packed,
    packed_decoder,
    packing_layer,
)
from tests.models.toy import MAX_TOKENS, ToyTokens, toy_decoder, toy_prefixes
from tests.tiny import tiny_captioner

FORMATS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
ERROR = {"fp32": 1e-5, "bf16": 0.01, "int8": 0.02}
"""Largest relative error of a product: 24 and 8 bits of mantissa, 8 bits in all."""
needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="FBGEMM is not here")
on_every_format = pytest.mark.parametrize(
    "format",
    [
        pytest.param(name, marks=pytest.mark.skipif(not can_pack(name), reason=f"no fast {name} here"))
        for name in FORMATS
    ],
)


@on_every_format
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_is_close_to_the_plain_one(format: Precision, has_bias: bool) -> None:
    weight, x = torch.randn(96, 64), torch.randn(2, 7, 64)
    bias = torch.randn(96) if has_bias else None
    expected = functional.linear(x, weight, bias)
    y = _layer(format)(weight, bias)(x).float()
    assert y.shape == expected.shape
    assert (y - expected).norm() < ERROR[format] * expected.norm()


def _layer(format: Precision) -> Layer:
    layer = packing_layer(format)
    assert layer is not None
    return layer


@needs_int8
def test_int8_sums_are_exact_where_every_product_is_as_large_as_it_can_be() -> None:
    linear = _layer("int8")(torch.ones(32, 1024), None)
    for sign in (1.0, -1.0):  # -1 is the smallest unsigned input, 1 the largest
        torch.testing.assert_close(linear(torch.full((3, 1024), sign)), torch.full((3, 32), sign * 1024))


def test_reduced_weights_are_nearly_as_good_as_full_ones() -> None:
    weight, x = torch.randn(96, 64), torch.randn(40, 64)
    expected = functional.linear(x, weight)
    for largest, error in ((WEIGHT_MAX, 0.01), (REDUCED_WEIGHT_MAX, 0.02)):
        ids, scales = packing._quantized(weight, largest=largest)
        assert int(ids.abs().max()) == largest
        assert (functional.linear(x, ids * scales) - expected).norm() < error * expected.norm()


@needs_int8
@pytest.mark.parametrize("layer", [Int8Linear, partial(Int8Linear, weight_max=64), ExactLinear])
def test_row_gets_the_same_result_whatever_stands_beside_it(layer: Layer) -> None:
    linear, x = layer(torch.randn(320, 1280), torch.randn(320)), torch.randn(160, 1280)
    x[1::2] *= 100  # a scale for the whole batch would drown the other rows
    together = linear(x)
    for rows in (1, 2, 5, 32):
        parts = [linear(x[at : at + rows]) for at in range(0, 160, rows)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize(
    ("format", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)], ids=["fp32", "bf16"]
)
def test_gelu_in_the_layer_is_the_one_after_it(format: Precision, dtype: torch.dtype) -> None:
    if not can_pack(format):
        pytest.skip(f"no fast {format} here")
    weight, bias, x = torch.randn(96, 64), torch.randn(96), torch.randn(5, 64)
    expected = functional.gelu(functional.linear(x, weight, bias), approximate="tanh")
    y = PackedLinear(weight, bias, gelu=True, dtype=dtype)(x).float()
    assert (y - expected).norm() < ERROR[format] * expected.norm()


def test_bf16_that_would_be_emulated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert not can_pack("bf16")


@on_every_format
def test_packed_decoder_says_nearly_the_same_and_leaves_the_plain_one_alone(format: Precision) -> None:
    decoder, prefixes = toy_decoder(), toy_prefixes(6)
    before = copy.deepcopy(decoder.state_dict())
    fast = packed_decoder(decoder, format)
    logits = []
    for one in (decoder, fast):
        cache = one.new_cache(images=6, rows=6, max_tokens=MAX_TOKENS)
        logits.append(one.prefill(prefixes, cache, torch.arange(6)).float())
    assert (logits[1] - logits[0]).norm() < 0.1 * logits[0].norm()
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


@needs_int8
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_caption_is_the_same_alone_and_among_others(strategy: Literal["greedy", "beam"]) -> None:
    fast, prefixes = packed_decoder(toy_decoder(), "int8"), toy_prefixes(24)
    options = GenerationOptions(strategy, max_tokens=MAX_TOKENS)
    together = decode(fast, prefixes, options, tokens=ToyTokens(), max_images=24)
    for at in range(24):
        alone = decode(fast, prefixes[at : at + 1], options, tokens=ToyTokens(), max_images=1)
        assert [one.token_ids for one in alone[0]] == [one.token_ids for one in together[at]]


@needs_int8
@pytest.mark.parametrize("kind", ["mlp", "grid", "transformer"])
def test_prefix_is_the_same_alone_and_among_others(
    tmp_path: Path, kind: Literal["mlp", "grid", "transformer"]
) -> None:
    mapping = MappingConfig(kind, 3, grid_cells=4, grid_channels=32, heads=2)
    captioner = tiny_captioner(tmp_path, mapping=mapping).requires_grad_(False)
    fast, generator = packed(captioner, "int8"), torch.Generator().manual_seed(0)
    features = ImageFeatures(
        functional.normalize(torch.randn(24, 16, generator=generator), dim=-1),
        torch.randn(24, 4, 32, generator=generator),
    )
    together, expected = fast.prefix(features), captioner.prefix(features)
    assert (together - expected).norm() < 0.05 * expected.norm()
    for at in range(24):
        one = ImageFeatures(features.embedding[at : at + 1], features.grid[at : at + 1])  # type: ignore[index]
        assert torch.equal(fast.prefix(one), together[at : at + 1])


@needs_int8
def test_convolutional_tower_sees_nearly_the_same_and_the_same_alone_and_among_others() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    fast = packed(captioner, "int8")
    pixels = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, expected = fast.encode_image(pixels), captioner.encode_image(pixels)
        alone = fast.encode_image(pixels[2:3])
    assert (together.embedding * expected.embedding).sum(dim=1).min() > 0.99
    # a tower that stays in fp32 rounds its convolutions by the size of the batch
    tolerance = 0.0 if can_pack("bf16") else 1e-4
    assert alone.grid is not None
    assert together.grid is not None
    torch.testing.assert_close(alone.embedding, together.embedding[2:3], rtol=0.0, atol=tolerance)
    torch.testing.assert_close(alone.grid, together.grid[2:3], rtol=0.0, atol=tolerance)
    assert fast.clip.text.token_embedding is captioner.clip.text.token_embedding


def test_convolutions_are_fused_in_fp32_and_the_plain_tower_is_left_alone() -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    fast = packed(captioner, "fp32")
    assert any(isinstance(layer, FusedConvolution) for layer in fast.clip.visual.modules())
    assert not any(isinstance(layer, FusedConvolution) for layer in captioner.clip.visual.modules())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused, expected = fast.encode_image(pixels), captioner.encode_image(pixels)
    torch.testing.assert_close(fused.embedding, expected.embedding, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(fused.grid, expected.grid, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(("tower", "count"), [("vit_tiny_patch16_224", 0), ("resnet18", 20)])
def test_other_towers_of_timm_are_fused_as_far_as_they_can_be(tower: str, count: int) -> None:
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    pool = "token" if count == 0 else "avg"
    visual = TimmModel(tower, 256, image_size=224, pool=pool, proj="linear", pretrained=False).eval()
    captioner.clip = captioner.clip.with_visual(visual)
    fast = packed(captioner, "fp32").clip.visual
    assert sum(isinstance(layer, FusedConvolution) for layer in fast.modules()) == count
    assert (fast is visual) == (count == 0), "what is not changed is not held twice"


@needs_int8
def test_machine_that_has_int8_alone_keeps_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packing.LAYERS, "fp32", ())
    visual = packed(load_captioner(DEFAULT_CHECKPOINT), "int8").clip.visual
    assert not any(isinstance(layer, FusedConvolution) for layer in visual.modules())


def test_tower_that_would_see_something_else_when_fused_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(tower: torch.nn.Module) -> int:
        for layer in tower.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.zeros_(layer.weight)
        return 1

    monkeypatch.setattr(packing, "fuse_convolutions", wrongly)
    captioner = load_captioner(DEFAULT_CHECKPOINT)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = packed(captioner, "fp32").encode_image(pixels).embedding
        torch.testing.assert_close(seen, captioner.encode_image(pixels).embedding)


def test_machine_without_the_operators_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setitem(packing.LAYERS, "int8", (missing, missing))
    assert not can_pack("int8")
    with pytest.raises(ValueError, match="cannot run the model in int8; fp32 always works"):
        packed(tiny_captioner(tmp_path), "int8")


def test_operators_that_compute_something_else_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros(ExactLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape[:-1], 32)

    monkeypatch.setitem(packing.LAYERS, "int8", (Zeros, ExactLinear))
    assert packing_layer("int8") is ExactLinear
    monkeypatch.setitem(packing.LAYERS, "int8", (Zeros,))
    assert not can_pack("int8")
