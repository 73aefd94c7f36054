"""How near a decode step comes to the machine's matrix rate: `python -m benchmarks.decode_step`.

GPT-2 small at random weights, 10 tokens behind a prefix of 10. Beside a step stand its 49 matrix products
alone, and a large square product, which is what the machine can do: in bf16 where the processor has it, else
in fp32. Formats that it could only emulate are left out.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import add_arguments, medians
from models.config import DecoderConfig
from models.decoder import CaptionDecoder
from models.packing import Precision, can_pack, packed_decoder, packing_layer
from service.engine.allocator import keep_freed_memory

GPT2 = DecoderConfig("gpt2", vocab_size=50257, width=768, layers=12, heads=12, max_length=64)
FORMATS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
PREFIX, TOKENS, SQUARE = 10, 10, 2048
SHAPES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
"""Inputs and outputs of a layer's products; the vocabulary's comes once."""


def main() -> None:
    """Times steps of several sizes in every format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64, 160])
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the engine does
    torch.manual_seed(0)
    decoder = CaptionDecoder(GPT2, prefix_length=PREFIX).eval().requires_grad_(False)
    square = torch.randn(SQUARE, SQUARE).to(torch.bfloat16 if can_pack("bf16") else torch.float32)
    table = Table("format", "rows", "step", "its products alone", "GFLOP/s", "of the square's rate", box=None)
    for precision in FORMATS:
        if not can_pack(precision):
            print(f"{precision} is left out: this processor has no fast way to compute in it")
            continue
        fast, products = packed_decoder(decoder, precision), _products(decoder, precision)
        for rows in arguments.rows:
            ways: dict[str, Callable[[], object]] = {
                "step": _step(fast, rows),
                "products": partial(products, torch.randn(rows, GPT2.width)),
                "square": torch.inference_mode()(partial(functional.linear, square, square)),
            }
            times = medians(ways, runs=arguments.runs, clock=arguments.clock)
            rate = _flops(rows) / times["step"]
            table.add_row(
                precision,
                str(rows),
                f"{1000 * times['step']:.1f} ms",
                f"{times['products'] / times['step']:.0%}",
                f"{rate / 1e9:.0f}",
                f"{rate / (2 * SQUARE**3 / times['square']):.0%}",
            )
    title = f"{arguments.threads} threads, {arguments.clock} time, median of {arguments.runs}"
    Console().print(f"{title}; the square in {str(square.dtype).removeprefix('torch.')}", table)


def _flops(rows: int) -> int:
    inner = GPT2.layers * sum(inputs * outputs for inputs, outputs in SHAPES)
    return 2 * rows * (inner + GPT2.width * GPT2.vocab_size)


@torch.inference_mode()
def _step(decoder: CaptionDecoder, rows: int) -> Callable[[], Tensor]:
    ids = torch.arange(rows)
    cache = decoder.new_cache(images=rows, rows=rows, max_tokens=TOKENS + 1)
    decoder.prefill(torch.randn(rows, PREFIX, GPT2.width), cache, ids)

    @torch.inference_mode()
    def run() -> Tensor:
        return decoder.step(
            ids,
            cache,
            rows=ids,
            image_slots=ids,
            ancestors=ids.unsqueeze(1).expand(rows, TOKENS + 1),
            lengths=torch.full((rows,), TOKENS),
        )

    return run


def _products(decoder: CaptionDecoder, precision: Precision) -> Callable[[Tensor], None]:
    make = packing_layer(precision)
    if make is None:
        raise ValueError(f"{precision} cannot be packed here")
    layers = [
        make(linear.weight, linear.bias)
        for block in decoder.layers
        for linear in (block.attention.qkv, block.attention.out, block.up, block.down)
    ]
    layers.append(make(decoder.output_weight, None))

    @torch.inference_mode()
    def run(x: Tensor) -> None:
        if precision == "bf16":
            x = x.bfloat16()
        inputs = {width: x.repeat(1, width // GPT2.width) for width in (768, 3072)}
        for at, layer in enumerate(layers):
            layer(inputs[SHAPES[at % len(SHAPES)][0] if at < len(layers) - 1 else 768])

    return run


if __name__ == "__main__":
    main()
