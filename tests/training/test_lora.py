"""Low-rank adapters in training: they start as nothing, learn alone, and end as plain weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from models.captioner import Captioner
from models.checkpoint import load_captioner, save_captioner
from models.config import ConfigError
from models.image_features import ImageFeatures
from models.lora import LoraLinear, add_adapters
from models.manifest import Provenance
from tests.tiny import tiny_captioner
from training.config import Places, SupervisedConfig, UnsupervisedConfig
from training.data import Problems
from training.state import states
from training.supervised import run_supervised
from training.toml_reader import TrainingConfigError, config_from
from training.unsupervised import run_unsupervised

SUPERVISED: dict[str, Any] = {
    "init": "start/checkpoint",
    "captions_per_image": 2,
    "label_smoothing": 0.0,
    "stored_dtype": "float32",
    "lora": {"rank": 4, "targets": ["qkv", "out", "up", "down"]},
    "data": {"labelled": ["photos"], "views": ["original"], "workers": 1},
    "optim": {"lr": 2e-2, "warmup_steps": 2, "weight_decay": 0.0},
    "loop": {"epochs": 20, "batch_size": 8},
}


@pytest.fixture
def captioner(tmp_path: Path) -> Captioner:
    return tiny_captioner(tmp_path)


def test_adapted_decoder_starts_as_the_plain_one(captioner: Captioner) -> None:
    features, token_ids = _batch(captioner)
    plain = captioner(features, token_ids)
    _adapt(captioner, ["qkv", "out", "up", "down"])
    assert sum(isinstance(layer, LoraLinear) for layer in captioner.modules()) == 4 * 2
    assert torch.equal(captioner(features, token_ids), plain)


def test_merged_checkpoint_gives_the_logits_of_the_adapted_decoder(
    captioner: Captioner, tmp_path: Path
) -> None:
    features, token_ids = _batch(captioner)
    plain = captioner(features, token_ids)
    _adapt(captioner, ["qkv", "down"])
    torch.manual_seed(1)
    for layer in captioner.modules():
        if isinstance(layer, LoraLinear):
            torch.nn.init.normal_(layer.lora_up, std=0.1)
    adapted = captioner(features, token_ids)
    assert (adapted - plain).abs().max() > 0.1
    save_captioner(
        captioner,
        tmp_path / "checkpoint",
        provenance=Provenance("tiny", "supervised"),
        card="",
        clip_folder=tmp_path / "clip",
    )
    loaded = load_captioner(tmp_path / "checkpoint")
    assert not any(isinstance(layer, LoraLinear) for layer in loaded.modules())
    torch.testing.assert_close(loaded(features, token_ids), adapted, rtol=1e-5, atol=1e-5)


def test_target_without_a_linear_layer_is_refused(captioner: Captioner) -> None:
    with pytest.raises(ConfigError, match="no linear layer is called norm_1"):
        _adapt(captioner, ["qkv", "norm_1"])


def test_unknown_target_in_a_configuration_is_refused() -> None:
    with pytest.raises(TrainingConfigError, match=r"lora\.targets has wte; it may have qkv, out, up, down"):
        config_from(SupervisedConfig, {"lora": {"targets": ["qkv", "wte"]}})


def test_only_adapters_and_mapping_learn_and_the_state_holds_no_more(places: Places) -> None:
    result = run_supervised(config_from(SupervisedConfig, SUPERVISED), places, Problems(), resume=False)
    losses = _logged(places.out, "loss")
    assert losses[-1] < losses[0] - 0.2  # random frozen word vectors of 0.02 bound the logits at about 0.6
    before = load_captioner(places.run("start/checkpoint")).state_dict()
    after = load_captioner(result.folder).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {
        f"decoder.blocks.{block}.{layer}.weight"
        for block in range(2)
        for layer in ("attention.qkv", "attention.out", "up", "down")
    }
    assert {name for name in moved if name.startswith("decoder.")} == adapted
    assert any(name.startswith("mapping.") for name in moved)
    saved = _state_names(places.out)
    assert {name.rsplit(".", 1)[1] for name in saved if name.startswith("weights.decoder.")} == {
        "lora_down",
        "lora_up",
    }


def test_interrupted_run_goes_on_to_the_weights_of_an_unbroken_one(places: Places) -> None:
    settings = SUPERVISED | {"loop": {"epochs": 8, "batch_size": 8, "save_every": 4, "average_decay": 0.9}}
    config = config_from(SupervisedConfig, settings)
    unbroken = run_supervised(config, Places(places.data, places.run("unbroken")), Problems(), resume=False)
    run_supervised(config, places, Problems(), resume=False)
    _drop_last_state(places.out)
    resumed = run_supervised(config, places, Problems(), resume=True)
    expected = load_captioner(unbroken.folder).state_dict()
    for name, value in load_captioner(resumed.folder).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_stage_2_holds_the_adapted_decoder_to_the_one_without_adapters(places: Places) -> None:
    config = config_from(
        UnsupervisedConfig,
        {
            "init": "start/checkpoint",
            "frozen": ["mapping."],
            "lora": {"rank": 4},
            "stored_dtype": "float32",
            "data": {"unlabelled": ["photos"], "views": ["original"], "workers": 1},
            "reward": {"kl": 1e-6, "replay": 0.0},
            "rollout": {"samples": 4, "max_tokens": 6},
            "optim": {"lr": 5e-2, "warmup_steps": 0, "weight_decay": 0.0},
            "loop": {"epochs": 10, "batch_size": 8},
        },
    )
    result = run_unsupervised(config, places, Problems(), resume=False)
    divergence = _logged(places.out, "kl")
    assert divergence[0] == pytest.approx(0.0, abs=1e-6)
    assert divergence[-1] > 1e-3
    before = load_captioner(places.run("start/checkpoint"))
    after = load_captioner(result.folder)
    assert torch.equal(before.decoder.token_embedding.weight, after.decoder.token_embedding.weight)
    assert not torch.equal(_qkv(before), _qkv(after))


def _adapt(captioner: Captioner, targets: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    add_adapters(captioner.decoder, targets=targets, rank=3, alpha=6.0, generator=generator)


def _batch(captioner: Captioner) -> tuple[ImageFeatures, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = ImageFeatures(torch.randn(2, captioner.clip.embed_dim, generator=generator))
    return features, torch.randint(captioner.decoder.config.vocab_size, (2, 5), generator=generator)


def _qkv(captioner: Captioner) -> torch.Tensor:
    weight: torch.Tensor = captioner.decoder.state_dict()["blocks.0.attention.qkv.weight"]
    return weight


def _logged(out: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def _state_names(out: Path) -> list[str]:
    with safe_open(states(out / "states")[-1] / "state.safetensors", "pt") as file:
        return list(file.keys())


def _drop_last_state(out: Path) -> None:
    last = states(out / "states")[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
