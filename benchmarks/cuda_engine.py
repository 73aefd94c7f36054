"""Part of benchmarks.cuda: images a second from pixels to captions."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from transformers import GPT2LMHeadModel

from benchmarks.cuda_parts import (
    BEAMS,
    EOS,
    NEW_TOKENS,
    WAIT_S,
    console,
    encoding_first,
    half_gpt2,
    running,
    seconds,
    without_graphs,
)
from models.captioner import Captioner
from models.half import in_bf16
from models.similarity import clip_similarity
from service.engine.engine import Engine
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions
from service.engine.settings import EngineSettings


def compare_engines(captioner: Captioner, gpt2: GPT2LMHeadModel, *, images: int, batch: int) -> None:
    """Images a second from uint8 pixels to scored captions, the engine kept full."""
    device = captioner.device
    pixels = torch.randint(
        0, 256, (min(images, 256), 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    table = Table(
        "images/s", "generate bf16", "ours", "ours, encoding first", "ours, no graphs", "speed", "memory"
    )
    for name, options in {
        "greedy": CaptionOptions(
            "greedy",
            min_tokens=NEW_TOKENS,
            max_tokens=NEW_TOKENS,
            no_repeat_ngram_size=0,
            rank_by="likelihood",
        ),
        f"beam {BEAMS}": CaptionOptions(
            num_beams=BEAMS,
            min_tokens=NEW_TOKENS,
            max_tokens=NEW_TOKENS,
            no_repeat_ngram_size=0,
            rank_by="likelihood",
        ),
        f"beam {BEAMS}, 5 to 35 tokens": CaptionOptions(
            num_beams=BEAMS, no_repeat_ngram_size=0, rank_by="likelihood"
        ),
    }.items():
        _reset_peak()
        mixed = [options] if options.min_tokens else [_of_length(options, length) for length in range(5, 36)]
        settings = EngineSettings(
            max_depth=8 * batch,
            max_images=batch,
            max_rows=max(16, BEAMS * batch),
            encode_batch=32,
            precision="bf16",
        )
        ours = _rate(captioner, settings, pixels, mixed, images=images)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
        with encoding_first():
            first = _rate(captioner, settings, pixels, mixed, images=images)
        with without_graphs():
            eager = _rate(captioner, settings, pixels, mixed, images=images)
        plain_rate = _plain_rate(captioner, gpt2, pixels, mixed, images=min(images, 8 * batch), batch=batch)
        rates = [plain_rate, ours, first, eager]
        table.add_row(name, *(f"{one:.0f}" for one in rates), f"{ours / plain_rate:.1f} x", f"{peak:.1f} GiB")
    console.print(table)


def _of_length(options: CaptionOptions, length: int) -> CaptionOptions:
    return replace(options, min_tokens=length, max_tokens=length)


def _rate(
    captioner: Captioner,
    settings: EngineSettings,
    pixels: Tensor,
    mixed: Sequence[CaptionOptions],
    *,
    images: int,
) -> float:
    with running(captioner, settings) as engine:
        _caption_all(engine, pixels, mixed, images=max(8, images // 8), ahead=settings.max_depth // 2)
        began = time.perf_counter()
        _caption_all(engine, pixels, mixed, images=images, ahead=settings.max_depth // 2)
        return images / (time.perf_counter() - began)


def _caption_all(
    engine: Engine, pixels: Tensor, mixed: Sequence[CaptionOptions], *, images: int, ahead: int
) -> None:
    futures: list[Any] = []
    for index in range(images):
        if len(futures) >= ahead:
            futures.pop(0).result(WAIT_S)
        futures.append(engine.submit(pixels[index % len(pixels)], mixed[index % len(mixed)]))
    answers: list[ImageCaptions] = [future.result(WAIT_S) for future in futures]
    assert all(answer.captions for answer in answers)


def _plain_rate(
    captioner: Captioner,
    gpt2: GPT2LMHeadModel,
    pixels: Tensor,
    mixed: Sequence[CaptionOptions],
    *,
    images: int,
    batch: int,
) -> float:
    """Batches of one size through encoder, mapping, generate and open_clip's text tower for the scores.

    Each batch is as long as its longest caption.
    """
    half, small_gpt2 = in_bf16(captioner), half_gpt2(gpt2)
    longest = max(options.max_tokens for options in mixed)
    beams = mixed[0].num_beams if mixed[0].strategy == "beam" else 1

    def one_batch() -> None:
        model: Any = small_gpt2
        with torch.inference_mode():
            some = pixels[torch.arange(batch) % len(pixels)].to(half.device)
            features = half.encode_image(half.clip.preprocess.normalize(some))
            prefix = half.prefix(features).bfloat16()
            captions = model.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=half.device),
                num_beams=beams,
                do_sample=False,
                min_new_tokens=longest,
                max_new_tokens=longest,
                pad_token_id=EOS,
                eos_token_id=EOS,
            ).tolist()
            texts = [half.tokenizer.decode(caption) for caption in captions]
            ids = half.clip.tokenizer(texts).to(half.device)
            text_embeddings = torch.nn.functional.normalize(half.clip.model.encode_text(ids), dim=-1)  # type: ignore[operator]
            clip_similarity(features.embedding, text_embeddings).tolist()

    one_batch()
    count = max(1, images // batch)

    def all_batches() -> None:
        for _ in range(count):
            one_batch()

    return count * batch / seconds(all_batches)


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
