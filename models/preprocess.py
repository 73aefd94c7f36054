"""From a PIL image to the pixels that CLIP's image tower reads; training and service share it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings back a picture of each EXIF orientation."""
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as a person sees it: upright, 8 bits a channel, transparency on white."""
    upright = turned_upright(image)
    if upright.mode in _SIXTEEN_BIT_MODES:
        upright = _scale_to_8_bits(upright)
    if upright.has_transparency_data:
        return _composite_on_white(upright)
    rgb = upright.convert("RGB")
    rgb.info = {}  # its orientation is applied, and what else it says of itself may be broken
    return rgb


def turned_upright(image: Image.Image) -> Image.Image:
    """The picture as EXIF's orientation wants it shown; as it lies in the file where that cannot be read.

    What is turned says no more of its orientation. Pillow's exif_transpose writes all other EXIF data
    again, and fails where one of them has a wrong type.
    """
    image.load()
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 - broken EXIF is no reason to refuse the picture
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = {name: value for name, value in image.info.items() if name == "transparency"}
    return turned


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """A plain convert() clips at 255 and turns a 16-bit photo white; this maps its full range onto 8 bits."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    else:
        low, high = 0.0, 65535.0 if values.max(initial=0) > 255 else 255.0
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-12)) * 255.0
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def _composite_on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(page, layer).convert("RGB")


@dataclass(frozen=True)
class Preprocess:
    """Resizes to the image tower's square and normalises, with the values the tower was trained with.

    Args:
        image_size: edge of the square in pixels.
        resize_mode: "squash" stretches the whole picture into the square; "shortest" scales the shorter edge
            and crops the centre (open_clip's names).
        interpolation: bilinear for MobileCLIP and Perception Encoder, bicubic for most others.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: Literal["squash", "shortest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @classmethod
    def from_open_clip(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """The same in open_clip's words (size, mean, std, resize_mode, interpolation)."""
        size = settings["size"]
        edge = size[0] if isinstance(size, (tuple, list)) else size
        is_squashed = settings.get("resize_mode") == "squash"
        return cls(
            int(edge),
            tuple(settings["mean"]),
            tuple(settings["std"]),
            "squash" if is_squashed else "shortest",
            "bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        )

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.normalize(self.resize(image).unsqueeze(0)).squeeze(0)

    @property
    def min_source_size(self) -> int:
        """Edge in pixels below which a decoder's reduced-size mode would cost detail."""
        return self.image_size

    def resize(self, image: Image.Image) -> UInt8[Tensor, "3 height width"]:
        """The picture as image_size x image_size bytes."""
        rgb = to_rgb(image)
        size = (self.image_size, self.image_size)
        method = Image.Resampling[self.interpolation.upper()]
        square = rgb.resize(size, method) if self.resize_mode == "squash" else ImageOps.fit(rgb, size, method)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()

    def normalize(
        self, pixels: UInt8[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Bytes 0..255 to the tower's input range."""
        mean, std = _per_channel(self.mean, pixels.device), _per_channel(self.std, pixels.device)
        return (pixels.float() / 255.0 - mean) / std


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Made once for each device: a GPU's queue would be waited for each time."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)
