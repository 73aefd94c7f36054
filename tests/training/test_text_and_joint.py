"""A small CLIP and a captioner from nothing: captions alone, then eight photos, from pixels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.captioner import Captioner
from models.checkpoint import load_captioner
from tests.tiny import tiny_merges
from tests.training.conftest import SCENES
from training.config import JointConfig, Places, TextConfig
from training.data import DataError, Problems, read_caption_groups
from training.joint import build_joint, run_joint
from training.stage import Losses
from training.text import TextLosses, run_text
from training.toml_reader import TrainingConfigError, config_from

TEXT: dict[str, Any] = {
    "tokenizer": "bpe.txt.gz",
    "data": {"text": ["text.jsonl"], "labelled": ["photos"]},
    "towers": {
        "embed_dim": 16,
        "image_tower": "test_vit",
        "image_size": 160,
        "context_length": 16,
        "text_width": 32,
        "text_heads": 2,
        "text_layers": 1,
    },
    "model": {
        "max_tokens": 12,
        "mapping": {"kind": "mlp", "prefix_length": 2},
        "decoder": {"width": 32, "layers": 1, "heads": 2, "max_length": 24, "dropout": 0.0},
    },
    "optim": {"lr": 3e-3, "warmup_steps": 5},
    "loop": {"epochs": 30, "batch_size": 8, "precision": "fp32"},
}
JOINT: dict[str, Any] = {
    "init": "text/model",
    "data": {"labelled": ["photos"], "validation": "photos", "workers": 1},
    "augment": {"min_crop_area": 1.0, "max_aspect": 1.0, "flip": 0.0, "colour": 0.0, "jpeg_probability": 0.0},
    "optim": {"lr": 3e-3, "warmup_steps": 5},
    "loop": {"epochs": 60, "batch_size": 8, "precision": "fp32"},
}

PAIRS_ALONE: dict[str, Any] = {
    **TEXT,
    "data": {"text": ["text.jsonl"]},
    "captioning": 0.0,
    "loop": {"epochs": 2, "batch_size": 2, "precision": "fp32"},
}


@pytest.fixture
def text_places(places: Places) -> Places:
    places.run("bpe.txt.gz").write_bytes(tiny_merges())
    lines = [
        {"source": "web", "image": name, "text": text}
        for name, (_, caption) in SCENES.items()
        for text in (caption, f"{caption} .")
    ]
    text = places.data / "text.jsonl"
    text.write_text("\n".join(json.dumps(line) for line in [*lines, {"text": "the cat"}]))
    return replace(places, out=places.run("text"))


@pytest.fixture
def joint_places(text_places: Places) -> Places:
    run_text(_config(TextConfig, TEXT), text_places, Problems(), resume=False)
    return replace(text_places, out=text_places.run("joint"))


def test_captions_of_a_photo_belong_together(text_places: Places) -> None:
    groups = read_caption_groups([text_places.data / "text.jsonl"], Problems())
    assert groups[0].texts == ("the red dog runs", "the red dog runs .")
    assert groups[-1].texts == ("the cat",)
    assert groups[-1].sources[0].endswith("text.jsonl:17")


def test_both_losses_fall_on_captions_alone_and_the_image_tower_stays(text_places: Places) -> None:
    result = run_text(_config(TextConfig, TEXT), text_places, Problems(), resume=False)
    log = _log(text_places.out)
    assert log[-1]["captioning"] < 0.5 * log[0]["captioning"]
    assert log[-1]["contrastive"] < 0.7 * log[0]["contrastive"]
    before = load_captioner_clip(text_places.out / "towers")
    after = load_captioner(result.folder).clip.state_dict()
    moved = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-3)}
    assert moved
    assert not any(name.startswith("model.visual.") for name in moved)


def test_frozen_clip_does_not_move_while_the_decoder_learns_english(text_places: Places) -> None:
    config = _config(TextConfig, TEXT, frozen=["clip."], contrastive=0.0, loop={"epochs": 2})
    result = run_text(config, text_places, Problems(), resume=False)
    before = load_captioner_clip(text_places.out / "towers")
    after = load_captioner(result.folder).clip.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-3)


def test_eight_photos_are_captioned_and_told_apart(joint_places: Places) -> None:
    result = run_joint(_config(JointConfig, JOINT), joint_places, Problems(), resume=False)
    assert result.figures["cider_d"] > 100
    assert result.figures["reference_r@1"] > 50
    loaded = load_captioner(result.folder)
    assert loaded.clip.tokenizer.vocab_size == loaded.clip.vocab_size


def test_frozen_parts_do_not_move_and_all_others_do(joint_places: Places) -> None:
    config = _config(
        JointConfig, JOINT, frozen=["clip.model.visual.trunk.patch_embed"], stored_dtype="float32"
    )
    before = _parameters(joint_places.run("text/model"))
    result = run_joint(_shortened(config), joint_places, Problems(), resume=False)
    after = _parameters(result.folder)
    still = {name for name in before if torch.allclose(before[name], after[name], rtol=0, atol=1e-4)}
    assert any(name.startswith("clip.model.visual.trunk.patch_embed") for name in still)
    moved = {name.split(".")[0] for name in set(before) - still}
    assert moved == {"clip", "mapping", "decoder"}
    assert any(name.startswith("clip.model.visual.trunk.blocks") for name in set(before) - still)


def test_broken_run_resumes_to_the_same_weights(
    joint_places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.joint import JointStage

    config = _config(JointConfig, JOINT, loop={"epochs": 8, "save_every": 3, "average_decay": 0.9})
    unbroken = run_joint(
        config, replace(joint_places, out=joint_places.run("unbroken")), Problems(), resume=False
    )
    original, calls = JointStage.losses, []

    def failing(self: JointStage, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("power cut")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(JointStage, "losses", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run_joint(config, joint_places, Problems(), resume=False)
    monkeypatch.undo()
    resumed = run_joint(config, joint_places, Problems(), resume=True)
    expected, actual = _parameters(unbroken.folder), _parameters(resumed.folder)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-6)


def test_captions_alone_are_replayed_beside_the_photos(joint_places: Places) -> None:
    config = _config(
        JointConfig,
        JOINT,
        data={"text": ["text.jsonl"]},
        text={"weight": 0.5, "groups": 8},
        loop={"epochs": 8},
    )
    run_joint(config, joint_places, Problems(), resume=False)
    log = _log(joint_places.out)
    assert log[-1]["text_captioning"] < log[0]["text_captioning"]


def test_replay_of_captions_needs_captions() -> None:
    with pytest.raises(TrainingConfigError, match=r"data\.text names no captions"):
        _config(JointConfig, JOINT, text={"weight": 1.0})


def test_processes_share_out_the_captions_of_a_step(
    joint_places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(JointConfig, JOINT, data={"text": ["text.jsonl"]}, text={"weight": 0.5, "groups": 6})
    stage = build_joint(config, joint_places, Problems(), device=torch.device("cpu"))
    drawn: list[int] = []
    original = TextLosses.__call__

    def counting(self: TextLosses, rows: np.ndarray, generator: torch.Generator) -> Losses:
        drawn.append(len(rows))
        return original(self, rows, generator)

    monkeypatch.setattr(TextLosses, "__call__", counting)
    for rank in (0, 1, 2, 3):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
        stage.losses(np.arange(2), done=0.0, generator=torch.Generator())
    assert drawn == [2, 2, 1, 1]


def test_pairs_of_captions_are_told_apart_where_some_batches_have_none(text_places: Places) -> None:
    lines = [{"image": "a", "text": text} for text in ("the dog", "a dog")]
    lines += [{"image": str(number), "text": "the cat"} for number in range(3)]
    (text_places.data / "text.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = _config(TextConfig, PAIRS_ALONE)
    run_text(config, text_places, Problems(), resume=False)
    log = _log(text_places.out)
    assert [line["loss"] for line in log if "contrastive" not in line] == [0.0, 0.0]
    assert len(log) == 4


def test_text_without_a_pair_that_should_be_told_apart_is_refused(text_places: Places) -> None:
    (text_places.data / "text.jsonl").write_text('{"text": "the cat"}\n{"text": "the dog"}')
    with pytest.raises(TrainingConfigError, match="no photo has two captions"):
        run_text(_config(TextConfig, PAIRS_ALONE), text_places, Problems(), resume=False)


def test_text_of_which_nothing_can_be_used_stops(text_places: Places) -> None:
    (text_places.data / "text.jsonl").write_text('{"text": ""}')
    config = _config(TextConfig, {**TEXT, "data": {"text": ["text.jsonl"]}})
    with pytest.raises(DataError, match=r"nothing of data\.text can be used: 1 x empty caption"):
        run_text(config, text_places, Problems(), resume=False)


def test_unreadable_photo_is_left_out_and_named(joint_places: Places) -> None:
    (joint_places.data / "photos" / "red.png").write_text("no picture")
    problems = Problems()
    config = _config(JointConfig, JOINT, data={"validation": ""}, loop={"epochs": 1})
    run_joint(config, joint_places, problems, resume=False)
    assert problems.counts() == {"unreadable image": 1}


def test_missing_image_weights_are_named(text_places: Places) -> None:
    config = _config(TextConfig, TEXT, towers={"image_weights": "towers/none.safetensors"})
    with pytest.raises(OSError, match=r"none\.safetensors"):
        run_text(config, text_places, Problems(), resume=False)


def test_caption_file_that_is_not_json_is_named_with_its_line(text_places: Places) -> None:
    (text_places.data / "text.jsonl").write_text('{"text": "a dog"}\nno json\n')
    with pytest.raises(DataError, match=r"text\.jsonl:2 is not JSON"):
        run_text(_config(TextConfig, TEXT), text_places, Problems(), resume=False)


def test_clip_from_the_hub_must_be_frozen(text_places: Places) -> None:
    config = _config(
        TextConfig, TEXT, model={**TEXT["model"], "clip": "RN50"}, tokenizer="", loop={"epochs": 1}
    )
    with pytest.raises(TrainingConfigError, match=r'RN50 is from the hub and would learn; add "clip\."'):
        run_text(config, text_places, Problems(), resume=False)


def test_captions_longer_than_clip_reads_are_refused_before_training(text_places: Places) -> None:
    """Its text tower has 16 places, two of them for start and end."""
    config = _config(TextConfig, TEXT, model={**TEXT["model"], "max_tokens": 15})
    with pytest.raises(TrainingConfigError, match=r"model\.max_tokens.*\n.*is 15; .*reads 14 words"):
        run_text(config, text_places, Problems(), resume=False)


def test_photos_without_captions_are_judged_by_clip_and_language(joint_places: Places) -> None:
    alone = joint_places.data / "alone"
    alone.mkdir()
    for photo in (joint_places.data / "photos").glob("*.png"):
        (alone / photo.name).symlink_to(photo)
    config = _config(JointConfig, JOINT, data={"validation": "alone"}, loop={"epochs": 1})
    figures = run_joint(config, joint_places, Problems(), resume=False).figures
    assert {"clip_score", "r@1", "length_mean"} <= set(figures)
    assert {"cider_d", "reference_r@1"}.isdisjoint(figures)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_photos_are_captioned_and_told_apart_on_a_gpu(joint_places: Places) -> None:
    result = run_joint(_shortened(_config(JointConfig, JOINT)), joint_places, Problems(), resume=False)
    assert "reference_r@1" in result.figures


def load_captioner_clip(folder: Path) -> dict[str, torch.Tensor]:
    from models.clip import ClipEncoder
    from models.config import ClipConfig

    return ClipEncoder.load(ClipConfig(f"local-dir:{folder}")).state_dict()


def _shortened(config: JointConfig) -> JointConfig:
    return replace(config, loop=replace(config.loop, epochs=5))


def _config(kind: type[Any], settings: dict[str, Any], **changes: Any) -> Any:
    merged = dict(settings)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return config_from(kind, merged)


def _parameters(checkpoint: Path) -> dict[str, torch.Tensor]:
    captioner: Captioner = load_captioner(checkpoint)
    return dict(captioner.named_parameters())


def _log(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]
