"""What number formats cost in quality and gain in speed: `python -m benchmarks.precision PHOTOS`.

PHOTOS is a folder with metadata.jsonl. The default model (or --checkpoint) captions the photos by a beam of 4
in fp32, bf16 and int8, as far as this machine has them. Figures are by CLIP in fp32. Own similarity: of the
fp32 captions by CLIP in the format, the largest difference from fp32's in brackets. Equal: captions that are
those of fp32, letter by letter. CPU seconds of encoding, decoding and scoring.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.decode import decode
from models.generation import GenerationOptions
from models.image_features import ImageFeatures
from models.manifest import DEFAULT_CHECKPOINT
from models.packed_captioner import packed
from models.packing import Precision, can_pack
from models.similarity import clip_similarity
from service.engine.speed import in_fp32
from training.data import CaptionedImages
from training.evaluate import read_evaluation_photos
from training.metrics import clip_scores, reference_scores

BATCH, BEAMS = 8, 4
FORMATS: tuple[Precision, ...] = ("bf16", "int8")


@dataclass(frozen=True)
class Outcome:
    """Captions of all photos in one format, and the CPU seconds that they took."""

    captions: list[str]
    seconds: float


def main() -> None:
    """Captions the photos in every format and prints the figures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--limit", type=int, default=0, help="photos used, the first ones; 0: all")
    arguments = parser.parse_args()
    captioned = read_evaluation_photos(arguments.photos, limit=arguments.limit).captioned
    captioner = load_captioner(arguments.checkpoint)
    pixels = [captioner.clip.preprocess.resize(Image.open(path)) for path in captioned.images.files]  # type: ignore[arg-type]
    ways = in_fp32(captioner) | {name: packed(captioner, name) for name in FORMATS if can_pack(name)}
    table = Table("", *ways, box=None)
    outcomes = [_caption(way, pixels) for way in ways.values()]
    embeddings = _embeddings(captioner, pixels)
    figures = [_figures(captioner, captioned, outcome.captions, embeddings) for outcome in outcomes]
    for name in figures[0]:
        table.add_row(name, *(f"{each[name]:.3f}" for each in figures))
    plain = outcomes[0]
    similarities = [_similarities(way, pixels, plain.captions) for way in ways.values()]
    table.add_row("own similarity", *(_drift(each, similarities[0]) for each in similarities))
    table.add_row("equal captions", *(f"{_equal(each, plain):.1%}" for each in outcomes))
    table.add_row("CPU seconds", *(f"{each.seconds:.1f}" for each in outcomes))
    table.add_row("speed", *(f"{plain.seconds / each.seconds:.2f} x" for each in outcomes))
    Console().print(f"{len(pixels)} photos, beam 4, {torch.get_num_threads()} threads", table)
    for name in [name for name in FORMATS if name not in ways]:
        print(f"{name} is left out: this processor has no fast way to compute in it")


@torch.inference_mode()
def _caption(captioner: Captioner, pixels: Sequence[Tensor]) -> Outcome:
    options = GenerationOptions(num_captions=BEAMS, max_tokens=captioner.config.max_tokens)
    captions: list[str] = []
    began = time.process_time()
    for at in range(0, len(pixels), BATCH):
        prefix = captioner.prefix(_encode(captioner, pixels[at : at + BATCH]))
        images = decode(captioner.decoder, prefix, options, tokens=captioner.tokenizer, max_images=BATCH)
        texts = [[captioner.tokenizer.decode(one.token_ids) for one in image] for image in images]
        captioner.clip.encode_captions(list(chain.from_iterable(texts)))
        captions += [several[0] for several in texts]
    return Outcome(captions, time.process_time() - began)


def _encode(captioner: Captioner, pixels: Sequence[Tensor]) -> ImageFeatures:
    return captioner.encode_image(captioner.clip.preprocess.normalize(torch.stack(list(pixels))))


@torch.inference_mode()
def _embeddings(captioner: Captioner, pixels: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            _encode(captioner, [pixels[row] for row in rows]).embedding
            for rows in np.array_split(np.arange(len(pixels)), -(-len(pixels) // BATCH))
        ]
    )


def _figures(
    captioner: Captioner, captioned: CaptionedImages, captions: list[str], embeddings: Tensor
) -> dict[str, float]:
    scores = reference_scores(captions, captioned.captions)
    scores |= clip_scores(captions, image_embeddings=embeddings, scorer=captioner.clip)
    return {name: scores.figures[name] for name in ("cider_d", "bleu_4", "clip_score", "r@1")}


@torch.inference_mode()
def _similarities(captioner: Captioner, pixels: Sequence[Tensor], captions: Sequence[str]) -> Tensor:
    return clip_similarity(_embeddings(captioner, pixels), captioner.clip.encode_captions(captions))


def _drift(similarities: Tensor, plain: Tensor) -> str:
    return f"{similarities.mean():.4f} ({(similarities - plain).abs().max():.4f})"


def _equal(outcome: Outcome, plain: Outcome) -> float:
    return float(np.mean([one == other for one, other in zip(outcome.captions, plain.captions, strict=True)]))


if __name__ == "__main__":
    main()
