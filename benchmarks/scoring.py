"""Our scoring of captions against open_clip's padded `encode_text`: `python -m benchmarks.scoring`.

The text towers of the default model and of ViT-B-32 at random weights; both ways tokenize. The vectors must
be equal.
"""

import argparse
import random
from collections.abc import Sequence
from functools import partial
from itertools import product

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
BEAMS = 4


def main() -> None:
    """Times both ways on texts of 6 to 16 words, unlike ones and those of beams, which begin alike."""
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
        for count, (kind, made) in product(BATCHES, {"texts": _captions, "beams": _beams}.items()):
            captions = made(count)
            torch.testing.assert_close(_padded(clip, captions), _ours(clip, captions), atol=1e-4, rtol=1e-4)
            ways = {"padded": partial(_padded, clip, captions), "ours": partial(_ours, clip, captions)}
            times = medians(ways, runs=arguments.runs, clock=arguments.clock)
            ratio = times["padded"] / times["ours"]
            table.add_row(
                f"{name} ({clip.context_length})",
                f"{count} {kind}",
                *(f"{1000 * seconds:.1f} ms" for seconds in times.values()),
                f"{ratio:.1f} x",
            )
    Console().print(f"{arguments.threads} threads, {arguments.clock} time, median of {arguments.runs}", table)


def _captions(count: int) -> list[str]:
    """Texts that have nothing in common but their words."""
    rng = random.Random(count)
    return [_continued((), rng) for _ in range(count)]


def _beams(count: int) -> list[str]:
    """Candidates of beam searches: each four part from one text, somewhere."""
    rng = random.Random(count)
    firsts = [_continued((), rng).split() for _ in range(-(-count // BEAMS))]
    return [_continued(firsts[at // BEAMS][: rng.randrange(LENGTHS[0])], rng) for at in range(count)]


def _continued(words: Sequence[str], rng: random.Random) -> str:
    return " ".join([*words, *rng.choices(WORDS, k=rng.randint(*LENGTHS) - len(words))])


@torch.inference_mode()
def _padded(clip: ClipEncoder, captions: Sequence[str]) -> Tensor:
    encoded: Tensor = clip.model.encode_text(clip.tokenizer(list(captions)))  # type: ignore[operator]
    return functional.normalize(encoded, dim=-1)


@torch.inference_mode()
def _ours(clip: ClipEncoder, captions: Sequence[str]) -> Tensor:
    return clip.encode_captions(captions)


if __name__ == "__main__":
    main()
