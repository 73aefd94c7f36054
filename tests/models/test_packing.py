"""Packed decoders against the plain one: close to it, and blind to what else is in the batch."""

import copy
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn import functional

from models import packing
from models.checkpoint import load_captioner
from models.config import MappingConfig
from models.decode import decode
from models.generation import GenerationOptions
from models.image_features import ImageFeatures
from models.manifest import DEFAULT_CHECKPOINT
from models.packing import (
    LAYERS,
    ExactLinear,
    Int8Linear,
    Layer,
    PackedLinear,
    can_pack,
    packed,
    packed_decoder,
)
from tests.models.toy import MAX_TOKENS, ToyTokens, toy_decoder, toy_prefixes
from tests.tiny import tiny_captioner

Format = Literal["bf16", "int8"]
FORMATS: tuple[Format, ...] = ("bf16", "int8")
ERROR = {"bf16": 0.01, "int8": 0.02}
"""Largest relative error of a product: 8 bits of mantissa, 8 bits in all."""
needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="oneDNN has no int8 here")
on_every_format = pytest.mark.parametrize(
    "format",
    [
        pytest.param(name, marks=pytest.mark.skipif(not can_pack(name), reason=f"oneDNN has no {name} here"))
        for name in FORMATS
    ],
)


@on_every_format
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_is_close_to_the_plain_one(format: Format, has_bias: bool) -> None:
    weight, x = torch.randn(96, 64), torch.randn(2, 7, 64)
    bias = torch.randn(96) if has_bias else None
    expected = functional.linear(x, weight, bias)
    y = LAYERS[format](weight, bias)(x).float()
    assert y.shape == expected.shape
    assert (y - expected).norm() < ERROR[format] * expected.norm()


@needs_int8
@pytest.mark.parametrize("layer", [Int8Linear, ExactLinear])
def test_row_gets_the_same_result_whatever_stands_beside_it(layer: Layer) -> None:
    linear, x = layer(torch.randn(320, 1280), torch.randn(320)), torch.randn(160, 1280)
    x[1::2] *= 100  # a scale for the whole batch would drown the other rows
    together = linear(x)
    for rows in (1, 2, 5, 32):
        parts = [linear(x[at : at + rows]) for at in range(0, 160, rows)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.skipif(not can_pack("bf16"), reason="oneDNN has no bf16 here")
def test_gelu_in_the_layer_is_the_one_after_it() -> None:
    weight, bias, x = torch.randn(96, 64), torch.randn(96), torch.randn(5, 64)
    expected = functional.gelu(functional.linear(x, weight, bias), approximate="tanh")
    y = PackedLinear(weight, bias, gelu=True)(x).float()
    assert (y - expected).norm() < ERROR["bf16"] * expected.norm()


@on_every_format
def test_packed_decoder_says_nearly_the_same_and_leaves_the_plain_one_alone(format: Format) -> None:
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
    assert torch.equal(alone.embedding, together.embedding[2:3])
    assert torch.equal(alone.grid, together.grid[2:3])  # type: ignore[arg-type, index]
    assert fast.clip.text.token_embedding is captioner.clip.text.token_embedding


def test_machine_without_the_operators_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setitem(packing.LAYERS, "bf16", missing)
    assert not can_pack("bf16")
    with pytest.raises(ValueError, match="cannot run the model in bf16; fp32 always works"):
        packed(tiny_captioner(tmp_path), "bf16")


def test_operators_that_compute_something_else_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros(PackedLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape[:-1], 32)

    monkeypatch.setitem(packing.LAYERS, "bf16", Zeros)
    assert not can_pack("bf16")
