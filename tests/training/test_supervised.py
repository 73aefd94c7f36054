"""Stage 1 on eight memorised photos: it learns them, leaves CLIP alone, and goes on after a break."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.generation import GenerationOptions
from models.manifest import read_manifest
from tests.training.conftest import SCENES
from training.config import Places, SupervisedConfig
from training.data import Problems
from training.evaluate import evaluation_features, write_captions
from training.folders import read_captioned_images
from training.labelled import CaptionPairs
from training.stage import Losses
from training.supervised import SupervisedStage, run_supervised
from training.toml_reader import TrainingConfigError, config_from

SETTINGS: dict[str, Any] = {
    "init": "start/checkpoint",
    "captions_per_image": 2,
    "label_smoothing": 0.0,
    "stored_dtype": "float32",
    "data": {"labelled": ["photos"], "validation": "photos", "views": ["original"], "workers": 1},
    "optim": {"lr": 1e-2, "warmup_steps": 5, "weight_decay": 0.0},
    "loop": {"epochs": 60, "batch_size": 8, "save_every": 10},
}

TINY_DECODER = {"width": 32, "layers": 1, "heads": 2, "max_length": 24, "dropout": 0.0}


def test_eight_photos_are_memorised_word_for_word(places: Places) -> None:
    result = run_supervised(_config(loop={"epochs": 250}), places, Problems(), resume=False)
    losses = _losses(places.out)
    assert losses[-1] < 0.2 * losses[0]
    assert result.figures["cider_d"] > 100
    captions = _greedy_captions(load_captioner(result.folder), places)
    assert [caption.lower().rstrip(" .") for caption in captions] == [
        SCENES[name][1] for name in sorted(SCENES)
    ]


def test_clip_does_not_move_and_the_rest_does(places: Places) -> None:
    result = run_supervised(_config(loop={"epochs": 3}), places, Problems(), resume=False)
    before, after = _weights(places.run("start/checkpoint")), _weights(result.folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("clip.") for name in moved)
    assert {name.split(".")[0] for name in moved} == {"mapping", "decoder"}


def test_frozen_decoder_does_not_move(places: Places) -> None:
    result = run_supervised(
        _config(frozen=["decoder."], loop={"epochs": 3}), places, Problems(), resume=False
    )
    before, after = _weights(places.run("start/checkpoint")), _weights(result.folder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("mapping.") for name in moved)


def test_broken_run_resumes_to_the_same_weights(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(
        data={"views": ["original", "flip"]}, loop={"epochs": 12, "batch_size": 4, "average_decay": 0.9}
    )
    unbroken = run_supervised(config, replace(places, out=places.run("unbroken")), Problems(), resume=False)
    monkeypatch.setattr(SupervisedStage, "losses", _failing_at(SupervisedStage.losses, 15))
    with pytest.raises(RuntimeError, match="power cut"):
        run_supervised(config, places, Problems(), resume=False)
    monkeypatch.undo()
    resumed = run_supervised(config, places, Problems(), resume=True)
    expected, actual = _weights(unbroken.folder), _weights(resumed.folder)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-6)


def test_checkpoint_says_where_it_comes_from(places: Places) -> None:
    result = run_supervised(_config(loop={"epochs": 2}), places, Problems(), resume=False)
    manifest = read_manifest(result.folder)
    assert manifest.provenance.stage == "supervised"
    assert manifest.provenance.step == 2
    assert manifest.provenance.parent == read_manifest(places.run("start/checkpoint")).version
    card = (result.folder / "README.md").read_text()
    assert "- labelled photos: photos" in card
    assert "| cider_d |" in card


def test_new_captioner_is_built_from_its_shape(places: Places) -> None:
    config = _config(
        init="",
        model={
            "clip": "start/parts/clip",
            "max_tokens": 12,
            "mapping": {"kind": "grid", "prefix_length": 2, "grid_cells": 4, "grid_channels": 32},
            "decoder": TINY_DECODER,
        },
        loop={"epochs": 20},
    )
    result = run_supervised(config, places, Problems(), resume=False)
    losses = _losses(places.out)
    assert losses[-1] < 0.5 * losses[0]
    assert load_captioner(result.folder).config.mapping.kind == "grid"


def test_too_long_captions_are_skipped_and_named(places: Places) -> None:
    metadata = places.data / "photos" / "metadata.jsonl"
    long = {"file_name": "red.png", "captions": ["the dog " * 10]}
    metadata.write_text("\n".join([json.dumps(long), *metadata.read_text().splitlines()[1:]]))
    problems = Problems()
    run_supervised(_config(loop={"epochs": 1}), places, problems, resume=False)
    assert problems.counts() == {"caption too long": 1, "no captions": 1}
    assert problems.items[0].where.startswith(f"{metadata}:1 red.png 20 of 12 tokens: the dog the dog")
    assert problems.items[1].where == f"{metadata}:1 red.png"


def test_captions_of_an_image_are_all_different_where_there_are_enough() -> None:
    token_ids = [[torch.tensor([caption, 99]) for caption in range(3)]]
    pairs = CaptionPairs(features=None, token_ids=token_ids)  # type: ignore[arg-type]
    drawn = pairs.draw(np.array([0]), count=3, generator=torch.Generator().manual_seed(0))
    assert sorted(int(caption[0]) for caption in drawn) == [0, 1, 2]
    again = pairs.draw(np.array([0]), count=5, generator=torch.Generator().manual_seed(0))
    assert len(again) == 5


def _failing_at(original: Callable[..., Losses], call: int) -> Callable[..., Losses]:
    calls: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> Losses:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("power cut")
        return original(*args, **kwargs)

    return failing


def _config(**changes: Any) -> SupervisedConfig:
    merged = dict(SETTINGS)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return config_from(SupervisedConfig, merged)


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_captioner(checkpoint).state_dict()


def _greedy_captions(captioner: Captioner, places: Places) -> list[str]:
    images = read_captioned_images(places.data / "photos", Problems()).images
    images = images.select(sorted(range(len(images)), key=lambda row: images.ids[row]))
    features, rows = evaluation_features(images, captioner.clip, cache=places.cache, problems=Problems())
    options = GenerationOptions(strategy="greedy", max_tokens=12)
    return write_captions(captioner, features, options, rows=torch.tensor(rows).numpy(), batch_size=8)


def test_samples_longer_than_the_decoder_writes_are_refused_before_training(places: Places) -> None:
    """38 tokens are fine: the last one's place is never read."""
    settings = {"samples": 2, "temperature": 10.0}
    config = _config(cider=1.0, rollout={**settings, "max_tokens": 39}, loop={"epochs": 1})
    with pytest.raises(TrainingConfigError, match=r"rollout\.max_tokens.*\n.*is 39; .*writes 38 tokens"):
        run_supervised(config, places, Problems(), resume=False)
    config = _config(cider=1.0, rollout={**settings, "max_tokens": 38}, loop={"epochs": 1})
    run_supervised(config, places, Problems(), resume=False)


def test_self_critical_cider_makes_peoples_captions_likelier(places: Places) -> None:
    start = _config(loop={"epochs": 40})
    run_supervised(start, replace(places, out=places.run("first")), Problems(), resume=False)
    changes = {"captioning": 0.0, "cider": 1.0, "rollout": {"samples": 16}, "optim": {"lr": 2e-3}}
    config = _config(init="first/model", loop={"epochs": 60}, **changes)
    run_supervised(config, places, Problems(), resume=False)
    log = [json.loads(line) for line in (places.out / "log.jsonl").read_text().splitlines()]
    earned = [-line["cider"] for line in log if "cider" in line]
    assert sum(earned[-15:]) > 1.15 * sum(earned[:15])  # 1.32; without learning 1.07
