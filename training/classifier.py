"""What an ImageNet classifier sees in photos: class probabilities, the mean over several views of each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from models.preprocess import Preprocess
from training.autocast import autocast
from training.data import DataError, ImageFile, Images, Problems
from training.pixels import read_pixel_batch
from training.shards import cached_arrays

PREPROCESS = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "squash")
BATCH = 16
CORNER = 0.65
"""Edge of a corner's crop as a share of the picture's: a small thing fills it, and no part is left out."""

CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))

Pixels = Float[Tensor, "batch 3 height width"]


def load_classifier(weights: Path, *, device: torch.device) -> nn.Module:
    """torchvision's SqueezeNet 1.1 with its ImageNet classifier.

    Args:
        weights: safetensors with torchvision's names.

    Raises:
        DataError: no such file, or weights of something else.
    """
    classifier: nn.Module = torchvision.models.squeezenet1_1(weights=None)
    try:
        classifier.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{weights} is no ImageNet classifier (torchvision's squeezenet1_1): {reason}"
        ) from error
    return classifier.eval().to(device).to(memory_format=torch.channels_last)


def class_probabilities(
    images: Images, classifier: nn.Module, *, cache: Path, workers: int, problems: Problems
) -> tuple[Float[np.ndarray, "photos classes"], list[int]]:
    """The probabilities of all readable images, and their rows in `images`."""

    def compute(files: Sequence[ImageFile]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        pixels, unreadable = read_pixel_batch(files, PREPROCESS, workers=workers)
        parts = [classify(classifier, pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)]
        return {"probabilities": torch.cat(parts).cpu().half().numpy()}, unreadable

    folder = cache / f"classes-{_fingerprint(classifier)}"
    arrays, readable = cached_arrays(
        images, folder=folder, compute=compute, label="classifying photos", problems=problems
    )
    return arrays.read("probabilities", np.arange(len(arrays))).astype(np.float32), readable


@torch.no_grad()
def classify(classifier: nn.Module, pixels: Tensor) -> Float[Tensor, "batch classes"]:
    """Mean probabilities over the picture, its mirror image and its four corners.

    Args:
        pixels: bytes, batch x 3 x 224 x 224.
    """
    device = next(classifier.parameters()).device
    values = PREPROCESS.normalize(pixels.to(device))
    with autocast(device, "auto"):  # 150 instead of 80 images/s on one core with AVX512-BF16
        seen = [classifier(view.contiguous(memory_format=torch.channels_last)) for view in _views(values)]
    return torch.stack([logits.float().softmax(dim=-1) for logits in seen]).mean(dim=0)


def _views(values: Pixels) -> list[Pixels]:
    return [values, values.flip(-1), *(_corner(values, *place) for place in CORNERS)]


def _corner(values: Pixels, down: float, right: float) -> Pixels:
    edge = values.shape[-1]
    size = round(edge * CORNER)
    top, left = round((edge - size) * down), round((edge - size) * right)
    cut = values[:, :, top : top + size, left : left + size]
    return functional.interpolate(cut, size=(edge, edge), mode="bilinear", antialias=True)


def _fingerprint(classifier: nn.Module) -> str:
    digest = hashlib.sha256(repr((PREPROCESS, CORNER, CORNERS)).encode())
    for value in classifier.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
