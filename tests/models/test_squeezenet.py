"""SqueezeNet as an image tower: torchvision's features, through the same files as any other CLIP."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from models.clip import ClipEncoder
from models.clip_folder import ClipError, write_local_config
from models.config import ClipConfig
from tests.tiny import tiny_merges, tiny_vocab_size

CAPTIONS = ["the dog runs in the snow", "a cat"]


def test_towers_features_are_torchvisions_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.squeezenet1_1(weights=None).eval()
    clip = _clip(tmp_path, image_weights=source.state_dict())
    pixels = _pixels()
    features = clip.encode_image(pixels)
    cells = source.features(pixels)
    assert features.grid is not None
    torch.testing.assert_close(features.grid, cells.flatten(2).transpose(1, 2))
    head = clip.model.visual.head  # type: ignore[union-attr]
    pooled = functional.adaptive_avg_pool2d(cells, 1).flatten(1)
    torch.testing.assert_close(features.embedding, functional.normalize(head(pooled), dim=1))  # type: ignore[operator]


def test_saved_tower_loads_again_and_sees_the_same(tmp_path: Path) -> None:
    clip = _clip(tmp_path)
    clip.save(tmp_path, dtype=torch.float32)
    again = ClipEncoder.load(ClipConfig(f"local-dir:{tmp_path}")).eval()
    torch.testing.assert_close(
        again.encode_image(_pixels()).embedding, clip.encode_image(_pixels()).embedding
    )
    torch.testing.assert_close(again.encode_captions(CAPTIONS), clip.encode_captions(CAPTIONS))
    assert again.revision == clip.revision


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"lack 50 tensors of the tower, first features\.0"):
        _clip(tmp_path, image_weights={"conv_stem.weight": torch.zeros(1)})


@pytest.mark.shared_data
def test_imagenet_weights_fit_by_name(shared_data: Path, tmp_path: Path) -> None:
    weights = load_file(shared_data / "towers" / "squeezenet1_1.imagenet.safetensors")
    clip = _clip(tmp_path, image_weights=weights)
    source = torchvision.models.squeezenet1_1(weights=None).eval()
    source.load_state_dict(weights)
    features = clip.encode_image(_pixels())
    assert features.grid is not None
    torch.testing.assert_close(
        features.grid, source.features(_pixels()).flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def _clip(folder: Path, *, image_weights: dict[str, Tensor] | None = None) -> ClipEncoder:
    merges = tiny_merges()
    write_local_config(
        folder,
        name="squeezed",
        model={
            "embed_dim": 16,
            "vision_cfg": {
                "timm_model_name": "semicap_squeezenet1_1",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 64,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": tiny_vocab_size(merges),
                "width": 32,
                "heads": 2,
                "layers": 1,
            },
        },
        preprocess={
            "size": 64,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
        merges=merges,
    )
    torch.manual_seed(1)
    return ClipEncoder.create_local(folder, image_weights=image_weights).eval().requires_grad_(False)


def _pixels() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
