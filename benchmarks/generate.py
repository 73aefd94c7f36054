"""Our decoding against transformers' `generate`, same weights: `python -m benchmarks.generate`.

GPT-2 small at random weights behind a prefix of 10, 20 new tokens. CPU seconds of all threads, medians of
interleaved runs, as ratios: a busy machine moves them little. The captions of both must be equal in fp32; for
bf16 and int8 the share of equal tokens is printed (random weights make near ties, which rounding decides).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from models.config import DecoderConfig
from models.decode import decode
from models.decoder import CaptionDecoder
from models.generation import GenerationOptions
from models.gpt2 import load_gpt2
from models.packing import packed_decoder

PREFIX, NEW_TOKENS, EOS = 10, 20, 50256
WORK = (("greedy", 1, 1), ("greedy", 1, 8), ("greedy", 1, 32), ("beam", 5, 1), ("beam", 5, 8))
BASE = "generate bf16"

Captions = list[list[int]]


@dataclass(frozen=True)
class Tokens:
    """Ids that decoding must know."""

    eos_id: int = EOS
    never_generated: tuple[int, ...] = ()


def main() -> None:
    """Times every way on every kind of work and prints ratios to `generate` in bf16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ways = _ways(seed=0)
    table = Table("work", *(f"{name}" for name in ways), box=None)
    equal = Table("equal tokens", *ways, box=None)
    for strategy, beams, images in WORK:
        prefix = torch.randn(images, PREFIX, 768, generator=torch.Generator().manual_seed(images))
        times, captions = _measure(ways, prefix, beams=beams, runs=arguments.runs)
        if captions["ours fp32"] != captions["generate fp32"]:
            raise SystemExit(f"{strategy} {images}: the captions differ in fp32")
        name = f"{strategy}{f' {beams}' if beams > 1 else ''}, batch {images}"
        table.add_row(name, *(_cell(times, way) for way in ways))
        expected = captions["generate fp32"]
        equal.add_row(name, *(f"{_agreement(captions[way], expected):.0%}" for way in ways))
    console = Console(width=140)
    console.print(
        f"{arguments.threads} threads, median of {arguments.runs}: CPU seconds, and speed against {BASE}"
    )
    console.print(table)
    console.print(equal)


def _ways(*, seed: int) -> Mapping[str, Callable[[Tensor, int], Captions]]:
    torch.manual_seed(seed)
    gpt2: Any = GPT2LMHeadModel(GPT2Config())
    gpt2.eval()
    config = DecoderConfig("gpt2", vocab_size=50257, width=768, layers=12, heads=12, max_length=64)
    decoder = CaptionDecoder(config, prefix_length=PREFIX).eval()
    load_gpt2(decoder, gpt2)
    half = copy.deepcopy(gpt2).bfloat16()
    return {
        "generate fp32": lambda prefix, beams: _generate(gpt2, prefix, beams),
        BASE: lambda prefix, beams: _generate(half, prefix.bfloat16(), beams),
        "ours fp32": lambda prefix, beams: _decode(decoder, prefix, beams),
        "ours bf16": _packed_way(decoder, "bf16"),
        "ours int8": _packed_way(decoder, "int8"),
    }


def _packed_way(decoder: CaptionDecoder, precision: Any) -> Callable[[Tensor, int], Captions]:
    fast = packed_decoder(decoder, precision)
    return lambda prefix, beams: _decode(fast, prefix, beams)


@torch.inference_mode()
def _generate(model: Any, prefix: Tensor, beams: int) -> Captions:
    ids: Tensor = model.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        num_beams=beams,
        do_sample=False,
        pad_token_id=EOS,
        eos_token_id=EOS,
    )
    return [[int(id) for id in row] for row in ids.tolist()]


def _decode(decoder: CaptionDecoder, prefix: Tensor, beams: int) -> Captions:
    options = GenerationOptions(
        strategy="beam" if beams > 1 else "greedy",
        num_beams=beams,
        max_tokens=NEW_TOKENS,
        min_tokens=NEW_TOKENS,
    )
    candidates = decode(decoder, prefix, options, tokens=Tokens(), max_images=len(prefix))
    return [list(image[0].token_ids) for image in candidates]


def _measure(
    ways: Mapping[str, Callable[[Tensor, int], Captions]], prefix: Tensor, *, beams: int, runs: int
) -> tuple[dict[str, float], dict[str, Captions]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    captions = {name: way(prefix, beams) for name, way in ways.items()}  # also the warm-up
    for _ in range(runs):
        for name, way in ways.items():
            began = time.process_time()
            way(prefix, beams)
            times[name].append(time.process_time() - began)
    return {name: statistics.median(each) for name, each in times.items()}, captions


def _agreement(captions: Captions, expected: Captions) -> float:
    pairs = [
        pair for one, other in zip(captions, expected, strict=True) for pair in zip(one, other, strict=False)
    ]
    return sum(one == other for one, other in pairs) / max(len(pairs), 1)


def _cell(times: Mapping[str, float], way: str) -> str:
    return f"{times[way]:.2f} ({times[BASE] / times[way]:.1f} x)"


if __name__ == "__main__":
    main()
