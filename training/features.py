"""CLIP's view of every image, computed once and kept in memory-mapped half precision."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from models.clip import ClipEncoder
from models.config import MappingConfig
from models.image_features import ImageFeatures
from training.augment import as_jpeg
from training.data import ImageFile, Images, Problems
from training.pixels import read_pixel_batch
from training.shards import ShardedArrays, cached_arrays
from training.toml_reader import TrainingConfigError

ENCODE_BATCH = 64
CPU_ENCODE_BATCH = 8
"""133 instead of 66 images/s of MobileNetV2 at 224 x 224 on two cores: a feature map of 64 images is larger
than the caches, and the kernel hands out and clears its memory anew for each layer."""
JPEG_QUALITY = 40
ZOOM = 0.85

Pixels = UInt8[Tensor, "batch 3 height width"]


class FeatureStore:
    """Features of a list of images, each in one or several views (the picture, its mirror image, …)."""

    def __init__(self, arrays: ShardedArrays, views: int) -> None:
        self._arrays = arrays
        self._views = views

    @classmethod
    def in_memory(cls, features: ImageFeatures) -> Self:
        """One view of each image, of features that are still to change."""
        parts = {"embedding": features.embedding}
        if features.grid is not None:
            parts["grid"] = features.grid
        if features.norm is not None:
            parts["norm"] = features.norm
        return cls(ShardedArrays.of({name: _stored([part]) for name, part in parts.items()}), 1)

    def __len__(self) -> int:
        return len(self._arrays)

    def batch(self, rows: np.ndarray, *, generator: torch.Generator | None = None) -> ImageFeatures:
        """Features of these images in float32: of a random view each, or of the first without a generator."""
        views = np.zeros(len(rows), dtype=np.int64)
        if generator is not None:
            views = torch.randint(self._views, (len(rows),), generator=generator).numpy()
        read = {
            name: torch.from_numpy(self._arrays.read(name, rows, inner=views)).float()
            for name in ("embedding", "grid", "norm")
            if name in self._arrays
        }
        return ImageFeatures(**read)

    def embeddings(self) -> Tensor:
        """All embeddings of the first view."""
        rows = np.arange(len(self))
        embeddings = self._arrays.read("embedding", rows, inner=np.zeros_like(rows))
        return torch.from_numpy(embeddings).float()


def cached_features(
    images: Images,
    clip: ClipEncoder,
    *,
    views: Sequence[str],
    mapping: MappingConfig | None = None,
    cache: Path,
    workers: int,
    problems: Problems,
) -> tuple[FeatureStore, list[int]]:
    """The features of all readable images, and their rows in `images`.

    Args:
        mapping: what will read the features; for none, embeddings are enough.

    Raises:
        TrainingConfigError: a view that VIEWS does not have, or a grid that this CLIP does not have.
    """
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        raise TrainingConfigError("data.views", [f"is {list(views)}; it may hold {', '.join(VIEWS)}"])

    kept = _parts_read_by(mapping)

    def compute(files: Sequence[ImageFile]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        pixels, unreadable = read_pixel_batch(files, clip.preprocess, workers=workers)
        size = CPU_ENCODE_BATCH if next(clip.parameters()).device.type == "cpu" else ENCODE_BATCH
        parts = [_encode(clip, pixels[at : at + size], views) for at in range(0, len(pixels), size)]
        if "grid" in kept and "grid" not in parts[0]:
            raise TrainingConfigError("model.mapping.kind", [f"must be mlp: {clip.name} has no feature map"])
        return {name: np.concatenate([part[name] for part in parts]) for name in kept}, unreadable

    kind = ("grid" if "grid" in kept else "embedding") + ("-norm" if "norm" in kept else "")
    folder = cache / f"features-{_fingerprint(clip)}-{kind}-{_name_of(views)}"
    arrays, readable = cached_arrays(
        images, folder=folder, compute=compute, label="encoding photos", problems=problems
    )
    return FeatureStore(arrays, len(views)), readable


def _parts_read_by(mapping: MappingConfig | None) -> list[str]:
    """The embedding, with which captions are compared, and what else of the features the mapping reads."""
    if mapping is None:
        return ["embedding"]
    return ["embedding"] + ["grid"] * (mapping.kind == "grid") + ["norm"] * (mapping.embedding == "raw")


def _name_of(views: Sequence[str]) -> str:
    """What a cache of these views is called, and of no others."""
    name = "-".join(views)
    # One view or two? Caches of such a name are from before the two were told apart, and may hold either.
    return "".join(f"+{view}" for view in views) if "zoom-flip" in name else name


@torch.no_grad()
def _encode(clip: ClipEncoder, pixels: Pixels, views: Sequence[str]) -> dict[str, np.ndarray]:
    """Features of a batch by name, as (images, views, …) arrays."""
    device = next(clip.parameters()).device
    encoded = [clip.encode_image(normalised(clip, VIEWS[view](pixels).to(device))) for view in views]
    parts = {
        "embedding": [features.embedding for features in encoded],
        "grid": [features.grid for features in encoded if features.grid is not None],
        "norm": [features.norm for features in encoded if features.norm is not None],
    }
    return {name: _stored(values) for name, values in parts.items() if values}


def normalised(clip: ClipEncoder, pixels: Pixels) -> Tensor:
    """Pixels as the image tower reads them, in the memory layout that it is fast in."""
    # 4 times as fast as contiguous for MobileNetV2 on two CPU cores (58 instead of 14 images/s)
    return clip.preprocess.normalize(pixels).to(memory_format=torch.channels_last)


def _stored(views: Sequence[Tensor]) -> np.ndarray:
    stored: np.ndarray = torch.stack(list(views), dim=1).cpu().half().numpy()
    return stored


def _fingerprint(clip: ClipEncoder) -> str:
    """From the weights themselves: an encoder at random weights has no telling revision."""
    digest = hashlib.sha256(repr(clip.preprocess).encode())
    for name, value in clip.model.state_dict().items():
        if name.startswith("visual"):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _mirrored(pixels: Pixels) -> Pixels:
    return pixels.flip(-1)


def _recompressed(pixels: Pixels) -> Pixels:
    return torch.stack([as_jpeg(picture, quality=JPEG_QUALITY) for picture in pixels])


def _zoomed(pixels: Pixels) -> Pixels:
    edge = pixels.shape[-1]
    margin = round(edge * (1 - ZOOM) / 2)
    cut = pixels[:, :, margin : edge - margin, margin : edge - margin].float()
    return functional.interpolate(cut, size=(edge, edge), mode="bilinear", antialias=True).round().byte()


VIEWS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "original": lambda pixels: pixels,
    "flip": _mirrored,
    "jpeg": _recompressed,
    "zoom": _zoomed,
    "zoom-flip": lambda pixels: _mirrored(_zoomed(pixels)),
}
"""Versions of a picture that still fit its captions."""
