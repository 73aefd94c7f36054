"""Weights laid out for a CPU: fp32 and bf16 packed by oneDNN, int8 by FBGEMM.

int8 sums are whole numbers, exact in any order: a product gives a row the same whatever stands beside it in
the batch, bit for bit. Attention and norms stay in fp32, whose last digits can turn one int8 value over: of
300 photos, alone and among others, no caption differed. bf16 is summed in an order that depends on the
number of rows, so that a caption can turn out differently in another batch where two words are nearly as
likely (of 96 photos, 2).
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.decoder import AddingLayer, CaptionDecoder

Precision = Literal["fp32", "bf16", "int8"]
INPUT_MAX, ZERO_POINT = 127, 128
WEIGHT_MAX, REDUCED_WEIGHT_MAX = 127, 64
"""Without VNNI, FBGEMM adds two products of 255 at most with a weight each in 16 bits: 64 is what fits."""
LEAST_ROWS_BF16 = 4
"""oneDNN takes 1.1 to 1.3 times as long for one row as for four, and longer for two (Zen 4, 1 thread)."""
GELU_SLOPE = math.sqrt(8 / math.pi)


class PackedLinear(AddingLayer):
    """A linear layer whose weight oneDNN has reordered once, with GPT-2's GELU after it if asked for.

    bf16: 1.5 to 1.7 times as fast as torch's layer from 5 rows on (768 x 3072, one core with AVX512-BF16).
    fp32: 1.8 times with 1 row, 2.5 with 5 or 8, 1.9 with 32 (768 x 3072, two cores with AVX2).
    """

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        bias: Float[Tensor, "out"] | None,
        *,
        gelu: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__()
        operator = torch.ops.mkldnn._linear_pointwise
        self._linear, self._linear_added = operator.default, operator.binary
        self._dtype = dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
        self._bias = None if bias is None else bias.to(dtype)
        self._then: tuple[str, list[float], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        rows, x = x.shape[0], self._enough_rows(x)
        y: Tensor = self._linear(x.to(self._dtype), self._weight, self._bias, *self._then)
        return y[:rows]

    def added(self, x: Tensor, hidden: Tensor) -> Tensor:
        rows, x, hidden = x.shape[0], self._enough_rows(x), self._enough_rows(hidden)
        y: Tensor = self._linear_added(hidden.to(self._dtype), x, self._weight, self._bias, "add")
        return y[:rows]

    def _enough_rows(self, x: Tensor) -> Tensor:
        """With zeros below; they are cut off again."""
        missing = LEAST_ROWS_BF16 - x.shape[0]
        if self._dtype != torch.bfloat16 or x.ndim != 2 or missing <= 0:
            return x
        return functional.pad(x, (0, 0, 0, missing))


class Int8Linear(AddingLayer):
    """A linear layer with int8 weights, a scale for each output, and int8 inputs, a scale for each row.

    FBGEMM's product. oneDNN's takes signed inputs, which it has no fast kernel for on processors without AMX.

    Args:
        weight_max: the largest value that a weight takes; all sums must be exact (can_pack tries it).
    """

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        bias: Float[Tensor, "out"] | None,
        *,
        weight_max: int = WEIGHT_MAX,
    ) -> None:
        super().__init__()
        self._linear = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
        ids, scales = _quantized(weight.float(), largest=weight_max)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # torch means to remove its quantized tensors; where they are gone, can_pack says no.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(ids, scales.squeeze(1).double(), zeros, 0)
        self._weight = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = None if bias is None else bias.float()

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        product, scales = self._product(x)
        if self._bias is None:
            return product.mul_(scales)
        return torch.addcmul(self._bias, product, scales)

    def added(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self(hidden).add_(x)  # type: ignore[no-any-return]

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Products of what is left of the rows when their scales are taken out, and the scales."""
        # Both are vectorised; torch's infinity norm of 400 x 3072 takes 10 times as long.
        highest, lowest = x.amax(dim=-1, keepdim=True), x.amin(dim=-1, keepdim=True)
        scales = torch.maximum(highest, lowest.neg_()).clamp_(min=1e-12)
        return self._linear(x / scales, 1 / INPUT_MAX, ZERO_POINT, self._weight), scales


Layer = Callable[[Tensor, Tensor | None], nn.Module]
LAYERS: Mapping[str, Sequence[Layer]] = {
    "fp32": (partial(PackedLinear, dtype=torch.float32),),
    "bf16": (PackedLinear,),
    "int8": (Int8Linear, partial(Int8Linear, weight_max=REDUCED_WEIGHT_MAX)),
}
"""Of each format, what is tried in turn; the first that computes rightly is taken."""


class SigmoidGelu(nn.Module):
    """GPT-2's GELU, whose tanh is a sigmoid: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), to 5e-7 the same.

    2.4 times as fast as torch's for 40 rows of 3072 (one thread, AVX512), as fast for one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slope = torch.tensor(GELU_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.addcmul(self._slope, x, x, value=0.044715 * GELU_SLOPE)
        return inner.mul_(x).sigmoid_().mul_(x)


class ExactLinear(nn.Module):
    """A linear layer summed in float64: rounded to float32, the order of the sum no longer shows."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"] | None) -> None:
        super().__init__()
        self._weight = weight.double()
        self._bias = None if bias is None else bias.double()

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        return functional.linear(x.double(), self._weight, self._bias).float()


def packed_decoder(decoder: CaptionDecoder, precision: Precision) -> CaptionDecoder:
    """A copy of a decoder: in bf16 everything is, but for the cache; else only the matrix products differ.

    Raises:
        ValueError: `can_pack` says no.
    """
    layer = require_layer(precision)
    dense = copy.deepcopy(decoder).eval().requires_grad_(False).float()
    output = layer(dense.output_weight, None)
    for block in dense.layers:
        if precision == "int8":
            block.activation = SigmoidGelu()
        else:
            block.up = layer(block.up.weight, block.up.bias, gelu=True)  # type: ignore[call-arg, assignment]
            block.activation = nn.Identity()
        pack_linears(block, layer)
    if precision == "bf16":
        dense.bfloat16()
    dense.output = output
    return dense


def can_pack(precision: Precision) -> bool:
    """Whether this machine does it, rightly and not by emulation. The operators are torch's, undocumented."""
    return packing_layer(precision) is not None


def packing_layer(precision: Precision) -> Layer | None:
    """How linear layers are made in a format here; None where this machine does not do it."""
    if precision == "bf16" and _is_emulated_bf16():
        return None
    return next((layer for layer in LAYERS[precision] if _is_right(layer)), None)


def require_layer(precision: Precision) -> Layer:
    """As packing_layer; raises ValueError where this machine does not do it."""
    layer = packing_layer(precision)
    if layer is None:
        raise ValueError(f"this machine cannot run the model in {precision}; fp32 always works")
    return layer


def _is_right(layer: Layer) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 64, generator=generator), torch.randn(3, 64, generator=generator)
    weight[0], x[0] = 1.0, 1.0  # without VNNI, FBGEMM sums pairs of products in 16 bits, which these overflow
    try:
        with torch.inference_mode():
            y = layer(weight, None)(x).float()
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    expected = functional.linear(x, weight)
    return bool((y - expected).norm() < 0.03 * expected.norm())


def _is_emulated_bf16() -> bool:
    """oneDNN takes bf16 on every x86 with AVX512; without units for it, it is slower there than fp32."""
    has = torch.cpu.get_capabilities()
    return has.get("architecture") == "x86_64" and not (has.get("avx512_bf16") or has.get("amx_bf16"))


def pack_linears(module: nn.Module, layer: Layer) -> None:
    """Replaces the linear layers below; those of torch's own attention are read by name there and stay."""
    for owner in list(module.modules()):
        for name, child in owner.named_children():
            if type(child) is nn.Linear:
                setattr(owner, name, layer(child.weight, child.bias))


def _quantized(
    x: Float[Tensor, "rows width"], *, largest: int
) -> tuple[Int[Tensor, "rows width"], Float[Tensor, "rows 1"]]:
    """int8 values of each row, up to `largest`, and what one unit of them is worth."""
    scales = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(largest)
    return (x / scales).round_().to(torch.int8), scales
