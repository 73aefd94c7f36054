"""SqueezeNet 1.1 (arXiv 1602.07360) as an image tower: torchvision's layers under timm's interface.

timm has no SqueezeNet. Registered here as "semicap_squeezenet1_1", it can be named by a local CLIP folder
like any timm tower, and torchvision's ImageNet weights fit by name.
"""

from typing import Any

import torchvision
from jaxtyping import Float
from timm.models import register_model
from torch import Tensor, nn


class SqueezeNet(nn.Module):
    """The convolutions, without the classifier: what open_clip's TimmModel asks of a trunk."""

    num_features = 512
    default_cfg = {"pool_size": (13, 13)}  # noqa: RUF012 - timm's convention

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.squeezenet1_1(weights=None).features

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """There is no classifier to reset, and one way to pool."""
        if num_classes or global_pool != "avg":
            raise ValueError(
                f"SqueezeNet pools by 'avg' without classes, not {global_pool!r} to {num_classes}"
            )

    def forward_features(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 512 rows columns"]:
        """The last feature map: 13 x 13 cells of a picture of 224 x 224."""
        cells: Tensor = self.features(pixels)
        return cells

    def forward_head(self, cells: Float[Tensor, "batch 512 rows columns"]) -> Float[Tensor, "batch 512"]:
        """The mean over all cells."""
        return cells.mean(dim=(2, 3))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 512"]:
        """Pooled features."""
        return self.forward_head(self.forward_features(pixels))


@register_model
def semicap_squeezenet1_1(*, pretrained: bool = False, **unused: Any) -> SqueezeNet:
    """The tower at random weights, as timm.create_model makes it.

    Args:
        unused: what timm hands to every maker (configuration of downloads); nothing here can be downloaded.
    """
    if pretrained:
        raise ValueError("semicap_squeezenet1_1 has no weights to download; load them by image_weights")
    return SqueezeNet()
