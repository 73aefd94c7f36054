"""What the engine accepts as an image."""

import torch
from torch import Tensor

from models.captioner import Captioner
from service.engine.errors import InvalidInputError


def check_captionable(image: Tensor, captioner: Captioner) -> None:
    """Raises InvalidInputError for what this captioner cannot write a caption of."""
    check_image(image, captioner)
    if image.dtype != torch.uint8 and captioner.config.mapping.kind == "grid":
        raise InvalidInputError(
            "this model also reads the image's feature map, which an embedding lacks; send pixels"
        )


def check_image(image: Tensor, captioner: Captioner) -> None:
    """Raises InvalidInputError for what is neither the model's pixels nor its CLIP's embedding."""
    if image.dtype == torch.uint8:
        _check_pixels(image, edge=captioner.clip.preprocess.image_size)
    else:
        _check_embedding(image, embed_dim=captioner.clip.embed_dim)


def _check_pixels(image: Tensor, *, edge: int) -> None:
    if image.shape != (3, edge, edge):
        raise InvalidInputError(f"the pixels are {tuple(image.shape)}; this model reads (3, {edge}, {edge})")


def _check_embedding(image: Tensor, *, embed_dim: int) -> None:
    if not image.is_floating_point() or image.shape != (embed_dim,):
        raise InvalidInputError(
            f"{tuple(image.shape)} of {image.dtype} is neither uint8 pixels nor {embed_dim} real numbers"
        )
    if not image.isfinite().all() or not image.any():
        raise InvalidInputError("the embedding must be finite and not all zero")
