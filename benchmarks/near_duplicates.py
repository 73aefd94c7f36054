"""Where near-duplicates begin: `python -m benchmarks.near_duplicates PHOTOS [--checkpoint DIR]`.

Prints the cosine of CLIP embeddings between photos and their copies, and to their nearest other photo.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.manifest import DEFAULT_CHECKPOINT

PHOTOS = 400
COPIED = 120
BATCH = 16
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def main() -> None:
    """Measures photos spread over a folder."""
    arguments = _arguments()
    captioner = load_captioner(arguments.checkpoint)
    paths = sorted(arguments.photos.glob("*.jpg"))
    photos = [Image.open(path).convert("RGB") for path in paths[:: max(1, len(paths) // PHOTOS)][:PHOTOS]]
    own = _embeddings(captioner, photos)
    others = own @ own.T
    others.fill_diagonal_(-1)
    table = Table("cosine", *(f"{quantile:.0%}" for quantile in QUANTILES), box=None)
    _add(table, f"nearest other of {len(photos)}", others.max(dim=1).values)
    for name, copy in _copies().items():
        copied = _embeddings(captioner, [copy(photo) for photo in photos[:COPIED]])
        _add(table, name, (copied * own[:COPIED]).sum(dim=1))
    Console().print(captioner.clip.name, table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    return parser.parse_args()


def _copies() -> dict[str, Callable[[Image.Image], Image.Image]]:
    return {
        "JPEG quality 85": lambda photo: _saved(photo, 85),
        "JPEG quality 50": lambda photo: _saved(photo, 50),
        "half the size": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
        "3 % cut off each side": lambda photo: _cropped(photo, 0.03),
        "8 % cut off each side": lambda photo: _cropped(photo, 0.08),
    }


@torch.inference_mode()
def _embeddings(captioner: Captioner, photos: Sequence[Image.Image]) -> Tensor:
    preprocess = captioner.clip.preprocess
    return torch.cat(
        [
            captioner.encode_image(
                preprocess.normalize(
                    torch.stack([preprocess.resize(photo) for photo in photos[begin : begin + BATCH]])
                )
            ).embedding
            for begin in range(0, len(photos), BATCH)
        ]
    )


def _saved(photo: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _cropped(photo: Image.Image, share: float) -> Image.Image:
    left, top = int(share * photo.width), int(share * photo.height)
    return photo.crop((left, top, photo.width - left, photo.height - top))


def _add(table: Table, name: str, cosines: Tensor) -> None:
    table.add_row(name, *(f"{cosines.quantile(quantile):.3f}" for quantile in QUANTILES))


if __name__ == "__main__":
    main()
