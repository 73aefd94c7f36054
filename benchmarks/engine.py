"""How much batching and the short text tower gain: `python -m benchmarks.engine PHOTOS [--checkpoint DIR]`.

Prints medians of interleaved runs and their ratio; absolute times are this machine's, now.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.checkpoint import load_captioner
from models.clip import ClipEncoder
from models.manifest import DEFAULT_CHECKPOINT
from service.engine.engine import Engine
from service.engine.options import CaptionOptions

RUNS = 3
PHOTOS = 32


def main() -> None:
    """Runs both comparisons on the first photos of a folder."""
    arguments = _arguments()
    captioner = load_captioner(arguments.checkpoint)
    paths = sorted(arguments.photos.glob("*.jpg"))[:PHOTOS]
    if not paths:
        raise SystemExit(f"{arguments.photos} has no .jpg file")
    pixels = [captioner.clip.preprocess.resize(Image.open(path)) for path in paths]
    table = Table("what", "one at a time / padded", "together / cut", "ratio", box=None)
    engine = Engine(captioner)
    engine.start()
    for strategy, options in _requests().items():
        _compare(
            table,
            f"{len(pixels)} photos, {strategy}",
            partial(_one_by_one, engine, pixels, options),
            partial(_together, engine, pixels, options),
        )
    engine.stop(drain_s=0)
    captions = ["a dog runs through the snow with a red ball"] * 64
    _compare(
        table,
        "CLIP text tower, 64 captions",
        partial(_encode_padded, captioner.clip, captions),
        partial(_encode_cut, captioner.clip, captions),
    )
    Console().print(f"{captioner.clip.name}, {torch.get_num_threads()} threads, median of {RUNS}", table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    return parser.parse_args()


def _requests() -> dict[str, CaptionOptions]:
    return {"greedy": CaptionOptions(strategy="greedy"), "beam 4": CaptionOptions(strategy="beam")}


def _one_by_one(engine: Engine, pixels: Sequence[Tensor], options: CaptionOptions) -> None:
    for image in pixels:
        engine.submit(image, options).result()


def _together(engine: Engine, pixels: Sequence[Tensor], options: CaptionOptions) -> None:
    for future in [engine.submit(image, options) for image in pixels]:
        future.result()


@torch.inference_mode()
def _encode_padded(clip: ClipEncoder, captions: list[str]) -> None:
    clip.model.encode_text(clip.tokenizer(captions))  # type: ignore[operator]


@torch.inference_mode()
def _encode_cut(clip: ClipEncoder, captions: list[str]) -> None:
    clip.encode_captions(captions)


def _compare(table: Table, what: str, plain: Callable[[], None], ours: Callable[[], None]) -> None:
    times: dict[Callable[[], None], list[float]] = {plain: [], ours: []}
    for _ in range(RUNS):
        for run, seconds in times.items():
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    slow, fast = (statistics.median(seconds) for seconds in times.values())
    table.add_row(what, f"{slow:.2f} s", f"{fast:.2f} s", f"{slow / fast:.1f} x")


if __name__ == "__main__":
    main()
