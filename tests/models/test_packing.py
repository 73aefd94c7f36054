"""Packed decoders against the plain one: close to it, and blind to what else is in the batch."""

import copy
from typing import Literal

import pytest
import torch
from torch.nn import functional

from models import packing
from models.decode import decode
from models.generation import GenerationOptions
from models.packing import LAYERS, PackedLinear, can_pack, packed
from tests.models.toy import MAX_TOKENS, ToyTokens, toy_decoder, toy_prefixes

Format = Literal["bf16", "int8"]
FORMATS: tuple[Format, ...] = ("bf16", "int8")
ERROR = {"bf16": 0.01, "int8": 0.02}
"""Largest relative error of a product: 8 bits of mantissa, 8 bits in all."""
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


@on_every_format
def test_row_gets_the_same_result_whatever_stands_beside_it(format: Format) -> None:
    layer, x = LAYERS[format](torch.randn(768, 256), torch.randn(768)), torch.randn(160, 256)
    x[1::2] *= 100  # a scale for the whole batch would drown the other rows
    alone = layer(x[:1])
    for rows in (2, 3, 5, 8, 32, 160):
        assert torch.equal(layer(x[:rows])[:1], alone)


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
    fast = packed(decoder, format)
    logits = []
    for one in (decoder, fast):
        cache = one.new_cache(images=6, rows=6, max_tokens=MAX_TOKENS)
        logits.append(one.prefill(prefixes, cache, torch.arange(6)).float())
    assert (logits[1] - logits[0]).norm() < 0.1 * logits[0].norm()
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


@on_every_format
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_caption_is_the_same_alone_and_among_others(
    format: Format, strategy: Literal["greedy", "beam"]
) -> None:
    fast, prefixes = packed(toy_decoder(), format), toy_prefixes(24)
    options = GenerationOptions(strategy, max_tokens=MAX_TOKENS)
    together = decode(fast, prefixes, options, tokens=ToyTokens(), max_images=24)
    for at in range(24):
        alone = decode(fast, prefixes[at : at + 1], options, tokens=ToyTokens(), max_images=1)
        assert [one.token_ids for one in alone[0]] == [one.token_ids for one in together[at]]


def test_machine_without_the_operators_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setitem(packing.LAYERS, "bf16", missing)
    assert not can_pack("bf16")
    with pytest.raises(ValueError, match="cannot run the decoder in bf16; fp32 always works"):
        packed(toy_decoder(), "bf16")


def test_operators_that_compute_something_else_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros(PackedLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*x.shape[:-1], 32)

    monkeypatch.setitem(packing.LAYERS, "bf16", Zeros)
    assert not can_pack("bf16")
