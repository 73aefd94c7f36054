"""Our scoring of captions against open_clip's padded `encode_text`: `python -m benchmarks.scoring`.

The text towers of the default model and of ViT-B-32 at random weights; both ways tokenize. The vectors must
be equal.
"""

import argparse
import random
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.timing import add_arguments, medians
from models.checkpoint import load_captioner
from models.clip import ClipEncoder
from models.config import ClipConfig
from models.manifest import DEFAULT_CHECKPOINT

WORDS = (
    "a",
    "the",
    "two",
    "dog",
    "man",
    "girl",
    "red",
    "small",
    "in",
    "on",
    "runs",
    "street",
    "ball",
    "water",
)
LENGTHS = (6, 16)
BATCHES = (1, 8, 32, 128)


def main() -> None:
    """Times both ways on batches of captions of 6 to 16 words."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    towers = {
        "default model": load_captioner(DEFAULT_CHECKPOINT).clip,
        "ViT-B-32": ClipEncoder.load(ClipConfig("ViT-B-32")).eval(),
    }
    table = Table("text tower", "captions", "padded", "ours", "ratio", box=None)
    for name, clip in towers.items():
        for count in BATCHES:
            captions = _captions(count)
            torch.testing.assert_close(_padded(clip, captions), _ours(clip, captions), atol=1e-4, rtol=1e-4)
            ways = {"padded": partial(_padded, clip, captions), "ours": partial(_ours, clip, captions)}
            times = medians(ways, runs=arguments.runs, clock=arguments.clock)
            ratio = times["padded"] / times["ours"]
            table.add_row(
                f"{name} ({clip.context_length})",
                str(count),
                *(f"{1000 * seconds:.1f} ms" for seconds in times.values()),
                f"{ratio:.1f} x",
            )
    Console().print(f"{arguments.threads} threads, {arguments.clock} time, median of {arguments.runs}", table)


def _captions(count: int) -> list[str]:
    rng = random.Random(count)
    return [" ".join(rng.choices(WORDS, k=rng.randint(*LENGTHS))) for _ in range(count)]


@torch.inference_mode()
def _padded(clip: ClipEncoder, captions: Sequence[str]) -> Tensor:
    encoded: Tensor = clip.model.encode_text(clip.tokenizer(list(captions)))  # type: ignore[operator]
    return functional.normalize(encoded, dim=-1)


@torch.inference_mode()
def _ours(clip: ClipEncoder, captions: Sequence[str]) -> Tensor:
    return clip.encode_captions(captions)


if __name__ == "__main__":
    main()
