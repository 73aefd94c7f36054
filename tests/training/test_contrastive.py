"""Training of a small CLIP on eight photos, and the changes it makes to pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.clip import ClipEncoder
from models.config import ClipConfig
from tests.tiny import tiny_merges
from training.augment import augment, random_colour, random_crop, recompress
from training.config import AugmentConfig, ContrastiveConfig, Places
from training.contrastive import build_contrastive
from training.data import Problems
from training.loop import train
from training.toml_reader import config_from

NOTHING = AugmentConfig(min_crop_area=1.0, max_aspect=1.0, flip=0.0, colour=0.0, jpeg_probability=0.0)
SETTINGS: dict[str, Any] = {
    "tokenizer": "bpe.txt.gz",
    "data": {"labelled": ["photos"], "validation": "photos", "workers": 1},
    "towers": {
        "embed_dim": 16,
        "image_tower": "test_vit",
        "image_size": 160,
        "context_length": 16,
        "text_width": 32,
        "text_heads": 2,
        "text_layers": 1,
    },
    "augment": {"min_crop_area": 1.0, "max_aspect": 1.0, "flip": 0.0, "colour": 0.0, "jpeg_probability": 0.0},
    "optim": {"lr": 3e-3, "warmup_steps": 5},
    "loop": {"epochs": 40, "batch_size": 8, "precision": "fp32"},
}


@pytest.fixture
def clip_places(places: Places) -> Places:
    places.run("bpe.txt.gz").write_bytes(tiny_merges())
    return places


def test_eight_pairs_are_told_apart_and_the_result_loads(clip_places: Places) -> None:
    result = _train(clip_places)
    losses = _losses(clip_places.out)
    assert losses[-1] < 0.5 * losses[0]
    assert result.figures["image_to_caption_r@1"] > 50
    clip = ClipEncoder.load(ClipConfig(f"local-dir:{result.folder}"))
    assert clip.name == "semicap-clip"
    assert clip.tokenizer.vocab_size == clip.vocab_size


def test_frozen_parts_do_not_move_and_the_others_do(clip_places: Places) -> None:
    config = _config(frozen=["visual.trunk.patch_embed", "token_embedding"], loop={"epochs": 2})
    stage = build_contrastive(config, clip_places, Problems())
    before = {name: value.detach().clone() for name, value in stage.module.named_parameters()}
    train(stage, optim=config.optim, loop=config.loop, out=clip_places.out, resume=False)
    moved = {name for name, value in stage.module.named_parameters() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(config.frozen)}
    assert frozen
    assert moved == set(before) - frozen


def test_unreadable_photo_is_left_out(clip_places: Places) -> None:
    (clip_places.data / "photos" / "red.png").write_text("no picture")
    problems = Problems()
    stage = build_contrastive(_config(data={"validation": ""}), clip_places, problems)
    assert stage.items == 7
    assert problems.counts() == {"unreadable image": 1}


def test_missing_image_weights_are_named(clip_places: Places) -> None:
    config = _config(towers={"image_weights": "towers/none.safetensors"})
    with pytest.raises(OSError, match=r"none\.safetensors"):
        build_contrastive(config, clip_places, Problems())


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


def _train(places: Places) -> Any:
    config = _config()
    stage = build_contrastive(config, places, Problems())
    return train(stage, optim=config.optim, loop=config.loop, out=places.out, resume=False)


def _config(**changes: Any) -> ContrastiveConfig:
    merged = dict(SETTINGS)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return config_from(ContrastiveConfig, merged)


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _pixels(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=_rng(), dtype=torch.uint8)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
