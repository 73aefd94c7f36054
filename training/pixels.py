"""Decoded training pictures: every photo is read and resized once, then lies in memory-mapped bytes."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from models.preprocess import Preprocess
from training.data import ImageFile, Images, Problems
from training.shards import ShardedArrays, cached_arrays

MAX_PIXELS = 100_000_000
"""Larger pictures are left out instead of filling the memory of every decoding thread."""


def read_pixels(file: ImageFile, preprocess: Preprocess) -> UInt8[Tensor, "3 height width"]:
    """One picture as the image tower's square of bytes.

    Raises:
        Exception: any, where the file is damaged: Pillow's formats raise what they please (an AVIF without an
            item a RuntimeError, damaged EXIF a struct.error or TypeError).
    """
    register_heif()
    with warnings.catch_warnings(), Image.open(BytesIO(file.read_bytes())) as image:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
        image.draft("RGB", (2 * preprocess.min_source_size, 2 * preprocess.min_source_size))
        return preprocess.resize(image)


def read_pixel_batch(
    files: Sequence[ImageFile], preprocess: Preprocess, *, workers: int
) -> tuple[UInt8[Tensor, "batch 3 height width"], dict[int, str]]:
    """Pictures decoded by a few threads (Pillow frees the lock); unreadable rows stay black, reason given."""
    size = preprocess.image_size
    batch = torch.zeros(len(files), 3, size, size, dtype=torch.uint8)
    unreadable: dict[int, str] = {}

    def read(row: int) -> None:
        try:
            batch[row] = read_pixels(files[row], preprocess)
        except UnidentifiedImageError:  # whose own words hold the address of a buffer
            unreadable[row] = "no image of a format that Pillow knows"
        except Exception as error:  # noqa: BLE001 - one file of millions must not end the run
            unreadable[row] = f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(read, range(len(files))))
    return batch, unreadable


@cache
def register_heif() -> None:
    """An iPhone's photos, where the extra `heic` is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()


def cached_pixels(
    images: Images, preprocess: Preprocess, *, cache: Path, workers: int, problems: Problems
) -> tuple[ShardedArrays, list[int]]:
    """All readable pictures as the array "pixels" (150 kB each at 224 x 224), and their rows in `images`."""

    def compute(files: Sequence[ImageFile]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        batch, unreadable = read_pixel_batch(files, preprocess, workers=workers)
        return {"pixels": batch.numpy()}, unreadable

    method = "" if preprocess.interpolation == "bicubic" else f"-{preprocess.interpolation}"
    folder = cache / f"pixels-{preprocess.image_size}-{preprocess.resize_mode}{method}"
    return cached_arrays(images, folder=folder, compute=compute, label="decoding photos", problems=problems)
