"""A new small CLIP: an image tower with ImageNet weights beside an untrained text tower."""

import shutil
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from models.clip import ClipEncoder
from models.clip_folder import LOCAL_CONFIG, LOCAL_MERGES, write_local_config
from training.config import Places
from training.config_parts import TowersConfig


def new_towers(config: TowersConfig, places: Places, *, merges: Path | None, folder: Path, seed: int) -> None:
    """Writes a CLIP into `folder`, in open_clip's local format.

    Args:
        merges: gzipped BPE merges of the text tower; None for CLIP's own.
    """
    write_local_config(
        folder,
        name=config.name,
        model=_model_settings(config, merges),
        preprocess=_preprocess_settings(config),
        merges=merges.read_bytes() if merges else None,
    )
    weights = load_file(places.data / config.image_weights) if config.image_weights else None
    torch.manual_seed(seed)
    ClipEncoder.create_local(folder, image_weights=weights).save(folder, dtype=torch.float32)


def save_towers(clip: ClipEncoder, description: Path, folder: Path) -> Path:
    """Writes a CLIP as it is now into `folder`, with configuration and merges from another folder of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (LOCAL_CONFIG, LOCAL_MERGES):
        if (description / file).is_file():
            shutil.copyfile(description / file, folder / file)
    clip.save(folder)
    return folder


def _model_settings(towers: TowersConfig, merges: Path | None) -> dict[str, Any]:
    vocab_size = (SimpleTokenizer(bpe_path=str(merges)) if merges else SimpleTokenizer()).vocab_size
    return {
        "embed_dim": towers.embed_dim,
        "vision_cfg": {
            "timm_model_name": towers.image_tower,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": towers.image_projection,
            "image_size": towers.image_size,
        },
        "text_cfg": {
            "context_length": towers.context_length,
            "vocab_size": vocab_size,
            "width": towers.text_width,
            "heads": towers.text_heads,
            "layers": towers.text_layers,
        },
    }


def _preprocess_settings(towers: TowersConfig) -> dict[str, Any]:
    return {
        "size": [towers.image_size, towers.image_size],
        "mean": list(towers.mean),
        "std": list(towers.std),
        "interpolation": "bicubic",
        "resize_mode": towers.resize_mode,
    }
