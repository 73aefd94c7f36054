"""Part of benchmarks.cuda: decoding against transformers' generate, and what a step consists of."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from transformers import GPT2LMHeadModel

from benchmarks.cuda_parts import BEAMS, EOS, NEW_TOKENS, console, graphs_for, half_gpt2, seconds
from benchmarks.random_reference import PREFIX
from models.captioner import Captioner
from models.decode_step import DecodeStep, PlainStep, plain
from models.decoding import DecodingBatch
from models.generation import GenerationOptions
from models.half import in_bf16

Run = Callable[[], list[list[int]]]


def compare_decoding(
    captioner: Captioner, gpt2: GPT2LMHeadModel, *, batches: Sequence[int], runs: int
) -> None:
    """Milliseconds of 20 tokens for each batch, and whether the tokens are those of generate."""
    small_gpt2, half = half_gpt2(gpt2), in_bf16(captioner)
    columns = ("generate bf16", "ours bf16, no graphs", "ours bf16")
    table = Table("decoding, ms", *columns, "speed", "equal tokens", "graphs gain", "equal in fp32")
    for beams in (1, BEAMS):
        for images in batches:
            prefix = _prefixes(images, captioner.device)
            exact = _equal_tokens(
                _ours(captioner, prefix, beams=beams)(), _generated(gpt2, prefix, beams=beams)()
            )
            ways: dict[str, Run] = {
                columns[0]: _generated(small_gpt2, prefix.bfloat16(), beams=beams),
                columns[1]: _ours(half, prefix, beams=beams),
                columns[2]: _ours(half, prefix, beams=beams, prepare=graphs_for(half, rows=images * beams)),
            }
            times, captions = _measure(ways, runs=runs)
            base, eager, ours = (1000 * times[name] for name in columns)
            table.add_row(
                f"{'greedy' if beams == 1 else f'beam {beams}'}, batch {images}",
                *(f"{milliseconds:.1f}" for milliseconds in (base, eager, ours)),
                f"{base / ours:.1f} x",
                f"{_equal_tokens(captions[columns[2]], captions[columns[0]]):.0%}",
                f"{eager / ours:.2f} x",
                f"{exact:.0%}",
            )
    console.print(table)


def _prefixes(images: int, device: torch.device) -> Tensor:
    return torch.randn(images, PREFIX, 768, generator=torch.Generator().manual_seed(images)).to(device)


def _ours(
    captioner: Captioner,
    prefix: Tensor,
    *,
    beams: int,
    prepare: Callable[[DecodeStep], DecodeStep] = plain,
) -> Run:
    images = len(prefix)
    batch = DecodingBatch(
        captioner.decoder,
        captioner.tokenizer,
        max_images=images,
        max_rows=images * beams,
        max_tokens=NEW_TOKENS,
        prepare=prepare,
    )
    options = _options(beams)

    def run() -> list[list[int]]:
        tickets = batch.add(prefix, [options] * images)
        done: dict[int, list[int]] = {}
        while len(done) < images:
            for one in batch.step():
                if one.error is not None:
                    raise one.error
                done[one.ticket] = list(one.candidates[0].token_ids)
        return [done[ticket] for ticket in tickets]

    return run


def _options(beams: int) -> GenerationOptions:
    strategy: Any = "beam" if beams > 1 else "greedy"
    return GenerationOptions(strategy, num_beams=beams, min_tokens=NEW_TOKENS, max_tokens=NEW_TOKENS)


def _generated(gpt2: GPT2LMHeadModel, prefix: Tensor, *, beams: int) -> Run:
    mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)

    def run() -> list[list[int]]:
        model: Any = gpt2
        with torch.inference_mode():
            ids = model.generate(
                inputs_embeds=prefix,
                attention_mask=mask,
                num_beams=beams,
                do_sample=False,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=EOS,
                eos_token_id=EOS,
            )
        rows: list[list[int]] = ids.tolist()
        return rows

    return run


def _measure(ways: Mapping[str, Run], *, runs: int) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Median seconds and captions of each way."""
    captions = {name: way() for name, way in ways.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            times[name].append(seconds(way))
    return {name: statistics.median(each) for name, each in times.items()}, captions


def _equal_tokens(captions: list[list[int]], expected: list[list[int]]) -> float:
    pairs = [
        pair for one, other in zip(captions, expected, strict=True) for pair in zip(one, other, strict=False)
    ]
    return float(np.mean([one == other for one, other in pairs]))


def take_step_apart(captioner: Captioner, *, rows: int) -> None:
    """How long the model takes for a token and how long choosing it, and what the time goes to."""
    half = in_bf16(captioner)
    table = Table(
        "one token, ms", "all of it", "the model: kernels one by one", "the model: graph", "weights read"
    )
    weight_bytes = sum(value.numel() * value.element_size() for value in half.decoder.parameters())
    for beams, images in ((1, 1), (1, rows), (BEAMS, rows)):
        prefix = _prefixes(images, captioner.device)
        batch = DecodingBatch(
            half.decoder,
            half.tokenizer,
            max_images=images,
            max_rows=images * beams,
            max_tokens=NEW_TOKENS,
            prepare=graphs_for(half, rows=images * beams),
        )
        batch.add(prefix, [_options(beams)] * images)
        for _ in range(3):
            batch.step()
        live: Any = batch._live
        graph_step = partial(batch._step, live.ids, live.slots, span=NEW_TOKENS)
        plain_step = partial(
            PlainStep(half.decoder, batch._cache, batch._tables), live.ids, live.slots, span=NEW_TOKENS
        )
        steps = [seconds(batch.step) for _ in range(NEW_TOKENS - 8)]
        with torch.inference_mode():
            eager = [seconds(plain_step) for _ in range(20)]
            graph = [seconds(graph_step) for _ in range(20)]
        milliseconds = [1000 * statistics.median(each) for each in (steps, eager, graph)]
        table.add_row(
            f"{'greedy' if beams == 1 else f'beam {beams}'}, batch {images}",
            *(f"{one:.2f}" for one in milliseconds),
            f"{weight_bytes / milliseconds[2] / 1e9:.2f} TB/s",
        )
    console.print(table)
    _profile(half, _prefixes(rows, captioner.device))


def _profile(half: Captioner, prefix: Tensor) -> None:
    run = _ours(half, prefix, beams=BEAMS, prepare=graphs_for(half, rows=len(prefix) * BEAMS))
    run()
    with torch.profiler.profile() as profile:
        run()
    for unit in ("device", "cpu"):
        events = sorted(profile.key_averages(), key=lambda one: -_self_us(one, unit))
        spent = [f"{one.key[:50]} {_self_us(one, unit) / 1000:.1f} ms / {one.count}" for one in events[:9]]
        console.print(f"one batch, {unit} time by operation / calls:", *spent, sep="\n  ")


def _self_us(event: Any, unit: str) -> float:
    return float(getattr(event, f"self_{unit}_time_total"))
