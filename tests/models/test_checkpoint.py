"""A checkpoint folder rebuilds its model by itself, and says clearly when it can't."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import load_captioner, save_captioner
from models.clip_folder import LOCAL_CONFIG
from models.config import MappingConfig
from models.manifest import CONFIG_FILE, WEIGHTS_FILE, CheckpointError, Provenance, read_manifest
from tests.tiny import byte_level_bpe, tiny_captioner, tiny_checkpoint, tiny_gpt2_captioner


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(values | changes))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "mapping",
    [MappingConfig("mlp", 3), MappingConfig("grid", 3, grid_cells=4, grid_channels=32)],
    ids=["mlp", "grid"],
)
@torch.no_grad()
def test_loaded_captioner_gives_the_same_logits(tmp_path: Path, mapping: MappingConfig) -> None:
    captioner = tiny_captioner(tmp_path, mapping=mapping)
    provenance = Provenance("tiny", "unsupervised", 7, parent="abc")
    written = save_captioner(
        captioner, tmp_path / "saved", provenance=provenance, card="# tiny", clip_folder=tmp_path / "clip"
    )
    again = load_captioner(tmp_path / "saved")
    features = captioner.encode_image(torch.randn(2, 3, 32, 32))
    token_ids = torch.randint(0, 500, (2, 5))
    torch.testing.assert_close(again(features, token_ids), captioner(features, token_ids))
    assert read_manifest(tmp_path / "saved") == written
    assert written.provenance == provenance


@torch.no_grad()
def test_gpt2_checkpoint_carries_its_tokenizer(tmp_path: Path) -> None:
    captioner = tiny_gpt2_captioner(tmp_path, byte_level_bpe())
    save_captioner(
        captioner,
        tmp_path / "saved",
        provenance=Provenance("g", "supervised"),
        card="",
        clip_folder=tmp_path / "clip",
    )
    again = load_captioner(tmp_path / "saved")
    text = "The dog's frisbee, on Snow."
    assert again.tokenizer.encode(text) == captioner.tokenizer.encode(text)
    assert again.tokenizer.decode(again.tokenizer.encode(text)) == text


def test_half_precision_file_is_half_as_large(tmp_path: Path) -> None:
    captioner = tiny_captioner(tmp_path)
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        save_captioner(
            captioner,
            tmp_path / name,
            provenance=Provenance("t", "supervised"),
            card="",
            clip_folder=tmp_path / "clip",
            dtype=dtype,
        )
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert load_captioner(tmp_path / "half").decoder.token_embedding.weight.dtype == torch.float32


def test_saving_again_replaces_the_folder_and_leaves_no_scratch(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, seed=0)
    first = read_manifest(tmp_path / "checkpoint").version
    tiny_checkpoint(tmp_path, seed=1)
    assert read_manifest(tmp_path / "checkpoint").version != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "parts"]


def test_version_is_of_the_clip_too_and_of_nothing_that_decides_no_caption(tmp_path: Path) -> None:
    captioner = tiny_captioner(tmp_path)

    def version(name: str) -> tuple[str, str]:
        manifest = save_captioner(
            captioner,
            tmp_path / name,
            provenance=Provenance(name, "supervised"),
            card=name,
            clip_folder=tmp_path / "clip",
        )
        return manifest.version, manifest.weights_sha256

    first, again = version("first"), version("again")
    settings = json.loads((tmp_path / "clip" / LOCAL_CONFIG).read_text())
    settings["preprocess_cfg"] = {"resize_mode": "squash"}
    (tmp_path / "clip" / LOCAL_CONFIG).write_text(json.dumps(settings))
    other = version("other")
    assert first == again
    assert other[0] != first[0]
    assert other[1] == first[1]


def test_empty_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_captioner(tmp_path)


def test_later_format_version_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, format_version=99)
    with pytest.raises(CheckpointError, match="format version 99"):
        load_captioner(checkpoint)


def test_missing_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_captioner(checkpoint)


def test_a_flipped_byte_is_noticed(checkpoint: Path) -> None:
    path = checkpoint / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_captioner(checkpoint)


def test_truncated_config_is_damaged(checkpoint: Path) -> None:
    text = (checkpoint / CONFIG_FILE).read_text()
    (checkpoint / CONFIG_FILE).write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_captioner(checkpoint)


def test_config_that_is_no_text_is_damaged(checkpoint: Path) -> None:
    (checkpoint / CONFIG_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="damaged"):
        load_captioner(checkpoint)


def test_unknown_config_field_is_named(checkpoint: Path) -> None:
    values = json.loads((checkpoint / CONFIG_FILE).read_text())
    values["config"]["mapping"]["prefix_lenght"] = 4
    edit_config(checkpoint, config=values["config"])
    with pytest.raises(CheckpointError, match="prefix_lenght"):
        load_captioner(checkpoint)


def test_weights_of_another_shape_are_named(checkpoint: Path) -> None:
    weights = load_file(checkpoint / WEIGHTS_FILE)
    weights["decoder.norm.weight"] = torch.ones(5)
    save_file(weights, checkpoint / WEIGHTS_FILE)

    edit_config(
        checkpoint, weights_sha256=hashlib.sha256((checkpoint / WEIGHTS_FILE).read_bytes()).hexdigest()
    )
    with pytest.raises(CheckpointError, match=r"decoder\.norm\.weight is \(5,\)"):
        load_captioner(checkpoint)


def test_clip_folder_that_vanished_is_named(checkpoint: Path) -> None:
    (checkpoint / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"open_clip_model\.safetensors"):
        load_captioner(checkpoint)
