"""Packed decoders against the plain one: close to it, and blind to what else is in the batch."""

import copy
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn import functional

from models import packing
from models.decode import decode
from models.generation import GenerationOptions
from models.packed_captioner import packed
from models.packing import (
    REDUCED_WEIGHT_MAX,
    WEIGHT_MAX,
    ExactLinear,
    Int8Linear,
    Layer,
    PackedLinear,
    Precision,
    SigmoidGelu,
    can_pack,
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


def test_gelu_by_a_sigmoid_is_the_one_by_a_tanh() -> None:
    x = torch.linspace(-20, 20, 4001)
    torch.testing.assert_close(SigmoidGelu()(x), functional.gelu(x, approximate="tanh"), atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(not can_pack("bf16"), reason="no fast bf16 here")
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_few_rows_of_bf16_are_what_they_are_among_others(rows: int) -> None:
    layer = PackedLinear(torch.randn(96, 64), torch.randn(96))
    x, hidden = torch.randn(8, 96).bfloat16(), torch.randn(8, 64)
    torch.testing.assert_close(layer(hidden[:rows]), layer(hidden)[:rows], atol=0.01, rtol=0.02)
    torch.testing.assert_close(
        layer.added(x[:rows], hidden[:rows]), layer.added(x, hidden)[:rows], atol=0.01, rtol=0.02
    )


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
