"""Our decoding against transformers' `generate`, same weights: `python -m benchmarks.generate`.

GPT-2 small at random weights behind a prefix of 10, 20 new tokens. Medians of interleaved runs, as ratios to
`generate` in bf16, or in fp32 where the processor has no bf16: formats that it could only emulate are left
out. The captions of both must be equal in fp32; for the others the share of equal tokens is printed (random
weights make near ties, which rounding decides). CTranslate2's int8 stands beside them where it is installed
(`pip install ctranslate2`; it is no dependency): behind a prompt of 10 tokens, as it takes no embeddings.
"""

import argparse
import copy
import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.timing import add_arguments, medians
from models.config import DecoderConfig
from models.decode import decode
from models.decoder import CaptionDecoder
from models.generation import GenerationOptions
from models.gpt2 import load_gpt2
from models.packing import Precision, can_pack, packed_decoder
from models.random_model import made_up_vocabulary
from service.engine.allocator import keep_freed_memory

PREFIX, NEW_TOKENS, EOS = 10, 20, 50256
WORK = (("greedy", 1, 1), ("greedy", 1, 8), ("greedy", 1, 32), ("beam", 5, 1), ("beam", 5, 8))
FORMATS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
PLAIN, PEER_FP32, PEER_BF16 = "ours fp32 unpacked", "generate fp32", "generate bf16"
PEER = "CTranslate2 int8"

Captions = list[list[int]]
Way = Callable[[Tensor, int], Captions]


@dataclass(frozen=True)
class Tokens:
    """Ids that decoding must know."""

    eos_id: int = EOS
    never_generated: tuple[int, ...] = ()


def main() -> None:
    """Times every way on every kind of work and prints ratios to `generate` in bf16."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the engine does; the others gain as well
    console = Console(width=160)
    with tempfile.TemporaryDirectory() as scratch:
        ways = _ways(Path(scratch), seed=0, threads=arguments.threads, say=console.print)
    base = PEER_BF16 if PEER_BF16 in ways else PEER_FP32
    table = Table("work", *ways, box=None)
    own = [name for name in ways if name != PEER]
    equal = Table("equal tokens", *own, box=None)
    for strategy, beams, images in WORK:
        prefix = torch.randn(images, PREFIX, 768, generator=torch.Generator().manual_seed(images))
        captions = {name: ways[name](prefix, beams) for name in own}
        if captions[PLAIN] != captions[PEER_FP32]:
            raise SystemExit(f"{strategy} {images}: the captions differ in fp32")
        here = {name: partial(way, prefix, beams) for name, way in ways.items()}
        times = medians(here, runs=arguments.runs, clock=arguments.clock)
        name = f"{strategy}{f' {beams}' if beams > 1 else ''}, batch {images}"
        cells = [_cell(times, way, base) for way in ways]
        print(
            f"{name}: {', '.join(f'{way} {cell}' for way, cell in zip(ways, cells, strict=True))}", flush=True
        )
        table.add_row(name, *cells)
        expected = captions[PEER_FP32]
        equal.add_row(name, *(f"{_agreement(captions[way], expected):.0%}" for way in own))
    console.print(
        f"{arguments.threads} threads, {arguments.clock} seconds, median of {arguments.runs}; "
        f"in brackets the speed against {base}"
    )
    console.print(table)
    console.print(equal)


def _ways(scratch: Path, *, seed: int, threads: int, say: Callable[[str], None]) -> Mapping[str, Way]:
    torch.manual_seed(seed)
    gpt2: Any = GPT2LMHeadModel(GPT2Config())
    gpt2.eval()
    config = DecoderConfig("gpt2", vocab_size=50257, width=768, layers=12, heads=12, max_length=64)
    decoder = CaptionDecoder(config, prefix_length=PREFIX).eval()
    load_gpt2(decoder, gpt2)
    ways: dict[str, Way] = {PEER_FP32: partial(_generate, gpt2), PLAIN: partial(_decode, decoder)}
    if can_pack("bf16"):
        half = copy.deepcopy(gpt2).bfloat16()
        ways[PEER_BF16] = lambda prefix, beams: _generate(half, prefix.bfloat16(), beams)
    for name in FORMATS:
        if can_pack(name):
            ways[f"ours {name}"] = partial(_decode, packed_decoder(decoder, name))
        else:
            say(f"{name} is left out: this processor has no fast way to compute in it")
    try:
        return ways | {PEER: _ctranslate2_way(gpt2, scratch, threads=threads)}
    except ImportError:
        say(f"{PEER} is left out: pip install ctranslate2 to compare with it")
        return ways


def _ctranslate2_way(gpt2: Any, scratch: Path, *, threads: int) -> Way:
    """The same weights in CTranslate2, behind a prompt of PREFIX tokens."""
    ctranslate2: Any = importlib.import_module("ctranslate2")
    gpt2.save_pretrained(scratch / "gpt2")
    tokenizer = made_up_vocabulary(50_000)
    tokenizer.save(scratch / "gpt2")
    converter = ctranslate2.converters.TransformersConverter(str(scratch / "gpt2"))
    converter.convert(str(scratch / "converted"), quantization="int8")
    generator = ctranslate2.Generator(
        str(scratch / "converted"), device="cpu", compute_type="int8", intra_threads=threads
    )
    words = ["\u0120the", "\u0120man", "\u0120dog", "\u0120cat", "\u0120red"] * 2

    def run(prefix: Tensor, beams: int) -> Captions:
        results = generator.generate_batch(
            [words] * len(prefix),
            beam_size=beams,
            min_length=NEW_TOKENS,
            max_length=NEW_TOKENS,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    return run


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


def _agreement(captions: Captions, expected: Captions) -> float:
    pairs = [
        pair for one, other in zip(captions, expected, strict=True) for pair in zip(one, other, strict=False)
    ]
    return sum(one == other for one, other in pairs) / max(len(pairs), 1)


def _cell(times: Mapping[str, float], way: str, base: str) -> str:
    return f"{times[way]:.2f} ({times[base] / times[way]:.1f} x)"


if __name__ == "__main__":
    main()
