"""Random changes to a batch of pictures: features shall depend on what is seen, not on how it was stored."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.config_parts import AugmentConfig

CPU = torch.device("cpu")
JPEG_THREADS = min(8, os.cpu_count() or 1)


def augment(
    pixels: UInt8[Tensor, "batch 3 height width"],
    config: AugmentConfig,
    *,
    generator: torch.Generator,
    device: torch.device = CPU,
) -> UInt8[Tensor, "batch 3 height width"]:
    """Crop, mirror, colour and JPEG quality, each drawn anew for every picture; the result is on `device`.

    What is drawn does not depend on the device.
    """
    pixels = recompress(pixels, config, generator=generator).to(device)
    moved = random_crop(pixels.float(), config, generator=generator)
    coloured = random_colour(moved, config, generator=generator)
    return coloured.round().clamp(0, 255).byte()


def recompress(
    pixels: UInt8[Tensor, "batch 3 height width"], config: AugmentConfig, *, generator: torch.Generator
) -> UInt8[Tensor, "batch 3 height width"]:
    """Some of the pictures after another round of JPEG at a random quality."""
    changed = pixels.clone()
    chosen = torch.rand(len(pixels), generator=generator) < config.jpeg_probability
    qualities = torch.randint(config.jpeg_min_quality, 96, (len(pixels),), generator=generator)

    def change(row: int) -> None:
        changed[row] = as_jpeg(pixels[row], quality=int(qualities[row]))

    with ThreadPoolExecutor(JPEG_THREADS) as pool:  # Pillow frees the lock
        list(pool.map(change, chosen.nonzero().flatten().tolist()))
    return changed


def as_jpeg(picture: UInt8[Tensor, "3 height width"], *, quality: int) -> UInt8[Tensor, "3 height width"]:
    """The picture as it comes back from a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def random_crop(
    pixels: Float[Tensor, "batch 3 height width"], config: AugmentConfig, *, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """A random part of each picture, stretched back to the full square, mirrored at random."""
    batch, device = len(pixels), pixels.device
    area = _uniform(batch, config.min_crop_area, 1.0, generator)
    aspect = _uniform(batch, 1 / config.max_aspect, config.max_aspect, generator).sqrt()
    width, height = (area.sqrt() * aspect).clamp(max=1.0), (area.sqrt() / aspect).clamp(max=1.0)
    centre_x = _uniform(batch, -1.0, 1.0, generator) * (1 - width)
    centre_y = _uniform(batch, -1.0, 1.0, generator) * (1 - height)
    mirror = torch.where(torch.rand(batch, generator=generator) < config.flip, -1.0, 1.0)
    zero = torch.zeros(batch)
    rows = torch.stack([width * mirror, zero, centre_x, zero, height, centre_y], dim=1)
    places = rows.view(batch, 2, 3).to(device)
    with torch.autocast(device.type, enabled=False):  # bf16 would move a pixel by up to half a pixel
        grid = functional.affine_grid(places, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def random_colour(
    pixels: Float[Tensor, "batch 3 height width"], config: AugmentConfig, *, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Brightness, contrast and saturation, each by up to the configured share."""
    low, high = 1 - config.colour, 1 + config.colour
    brightness, contrast, saturation = (
        _uniform(len(pixels), low, high, generator).view(-1, 1, 1, 1).to(pixels.device) for _ in range(3)
    )
    pixels = pixels * brightness
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    mean = grey.mean(dim=(2, 3), keepdim=True)
    return mean + (pixels - mean) * contrast


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low
