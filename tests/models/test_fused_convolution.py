"""Fused convolutions against the layers that they stand for, and towers that cannot be fused."""

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from models.fused_convolution import FusedConvolution, fuse_convolutions
from models.packing import can_pack

pytestmark = pytest.mark.skipif(not can_pack("fp32"), reason="oneDNN's operators are not here")


def seen(module: nn.Sequential, *, channels: int) -> nn.Sequential:
    """With statistics and weights of the norms as after training."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(4, channels, 9, 9))
    return module.eval()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Identity])
@pytest.mark.parametrize(
    "convolution",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8, "bias": False},
        {"kernel_size": 3, "dilation": 2},
    ],
)
def test_same_as_convolution_norm_and_activation(
    activation: type[nn.Module], convolution: dict[str, int]
) -> None:
    norm = BatchNormAct2d(16)
    norm.act = activation()
    plain = seen(nn.Sequential(nn.Conv2d(8, 16, **convolution), norm), channels=8)  # type: ignore[arg-type]
    fused = copy.deepcopy(plain)
    fuse_convolutions(fused)
    assert isinstance(fused[0], FusedConvolution)
    assert not list(fused[1].parameters())
    for batch in (1, 3):
        x = torch.randn(batch, 8, 9, 9).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            torch.testing.assert_close(fused(x), plain(x), atol=1e-5, rtol=1e-4)


def test_plain_norm_and_bias_are_folded_too() -> None:
    plain = seen(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()), channels=3)
    fused = copy.deepcopy(plain)
    fuse_convolutions(fused)
    assert [type(layer) for layer in fused] == [FusedConvolution, nn.Identity, nn.ReLU]
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), atol=1e-5, rtol=1e-4)


def test_other_layers_are_left_alone() -> None:
    reflecting = nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect")
    named = nn.Conv2d(5, 5, 3, padding="same")
    unseen = nn.BatchNorm2d(5, track_running_stats=False)
    module = nn.Sequential(
        reflecting, nn.BatchNorm2d(5), named, nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1), unseen
    )
    assert fuse_convolutions(module) == 0
    assert [type(layer) for layer in module] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.BatchNorm2d,
    ]
