"""The mean of checkpoints' weights: often better than each, at the price of one (arXiv 2203.05482)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.captioner import Captioner
from training.config import AverageConfig, Places
from training.config_parts import DataConfig
from training.loop import RESULT
from training.starting import Origin, from_checkpoint
from training.toml_reader import TrainingConfigError

CPU = torch.device("cpu")


def run_average(config: AverageConfig, places: Places) -> Path:
    """Writes a checkpoint with the mean of mapping and decoder; returns its folder. The last is its parent.

    Raises:
        TrainingConfigError: they differ in architecture or CLIP, so that a mean of them means nothing.
    """
    origins = [from_checkpoint(places.run(checkpoint), device=CPU) for checkpoint in config.checkpoints]
    faults = [
        f"{name} has another {difference} than {config.checkpoints[-1]}: "
        "only runs from one start can be averaged"
        for name, origin in zip(config.checkpoints, origins, strict=True)
        for difference in _differences(origin.captioner, origins[-1].captioner)
    ]
    if faults:
        raise TrainingConfigError("checkpoints", faults)
    return _write_mean(origins, places.out / RESULT, dtype=config.stored_dtype)


def _differences(captioner: Captioner, other: Captioner) -> list[str]:
    parts = {
        "mapping network": (captioner.config.mapping, other.config.mapping),
        "decoder": (captioner.config.decoder, other.config.decoder),
        "CLIP": (captioner.clip.revision, other.clip.revision),
    }
    return [name for name, (one, another) in parts.items() if one != another]


@torch.no_grad()
def _write_mean(origins: Sequence[Origin], folder: Path, *, dtype: str) -> Path:
    mean = origins[-1]
    for part in ("mapping", "decoder"):
        modules: list[nn.Module] = [getattr(origin.captioner, part) for origin in origins]
        states = [module.state_dict() for module in modules]
        modules[-1].load_state_dict(
            {name: torch.stack([state[name].float() for state in states]).mean(dim=0) for name in states[-1]}
        )
    mean.write_checkpoint(folder, stage="average", step=0, dtype=dtype, data=DataConfig(), figures={})
    return folder
