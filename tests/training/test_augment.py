"""The changes that training makes to pictures."""

import pytest
import torch

from training.augment import augment, random_colour, random_crop, recompress
from training.config_parts import AugmentConfig

NOTHING = AugmentConfig(min_crop_area=1.0, max_aspect=1.0, flip=0.0, colour=0.0, jpeg_probability=0.0)


def test_augmentation_that_does_nothing_gives_the_picture_back() -> None:
    pixels = _pixels()
    assert (augment(pixels, NOTHING, generator=_rng()).int() - pixels.int()).abs().max() <= 1


def test_mirror_is_exact() -> None:
    pixels = _pixels().float()
    mirrored = random_crop(
        pixels, AugmentConfig(min_crop_area=1.0, max_aspect=1.0, flip=1.0), generator=_rng()
    )
    torch.testing.assert_close(mirrored, pixels.flip(-1), atol=1e-2, rtol=1e-4)


def test_crops_stay_inside_the_picture() -> None:
    ramp = torch.linspace(0, 255, 64).expand(16, 3, 64, 64).clone()
    cropped = random_crop(ramp, AugmentConfig(min_crop_area=0.5, max_aspect=1.5, flip=0.0), generator=_rng())
    assert (cropped[:, 0, 0].diff(dim=-1) >= -1e-3).all()
    assert cropped[:, 0, 0, 0].std() > 5


def test_pictures_are_cut_alike_whatever_format_products_have() -> None:
    config = AugmentConfig(jpeg_probability=0.0)
    ramp = torch.linspace(0, 255, 224).round().byte().expand(4, 3, 224, 224)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        in_bf16 = augment(ramp, config, generator=_rng())
    assert in_bf16.equal(augment(ramp, config, generator=_rng()))


def test_colour_changes_stay_within_their_share() -> None:
    grey = torch.full((64, 3, 4, 4), 100.0)
    changed = random_colour(grey, AugmentConfig(colour=0.2), generator=_rng())
    assert changed.min() >= 79.9
    assert changed.max() <= 120.1
    assert changed[:, 0, 0, 0].std() > 5


def test_jpeg_is_applied_to_the_asked_share() -> None:
    pixels = _pixels(count=200)
    changed = recompress(pixels, AugmentConfig(jpeg_probability=0.3), generator=_rng())
    share = (changed != pixels).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.1)


def _pixels(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=_rng(), dtype=torch.uint8)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
