"""Captions alone: the text tower learns what they mean, the decoder learns English."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training import distributed
from training.config import Places, TextConfig
from training.config_parts import DataConfig
from training.data import Problems, read_caption_groups
from training.labelled import captions_loss, draw_captions, encode_texts
from training.loop import TrainingResult, build_and_train
from training.losses import contrastive_loss
from training.optim import freeze
from training.order import seed_at
from training.sources import read_captioned_sources
from training.stage import Losses
from training.starting import Origin, check_clip_can_be_saved, from_shape, write_with_clip
from training.toml_reader import TrainingConfigError
from training.towers import new_towers

TOWERS = "towers"


class TextStage:
    """Two captions of a photo find each other in the batch; one is written from the other's embedding."""

    name = "text"

    def __init__(self, origin: Origin, config: TextConfig, *, groups: Sequence[Sequence[Tensor]]) -> None:
        self.module = origin.captioner
        self.items = len(groups)
        self._origin, self._config = origin, config
        self._text = TextLosses(
            origin.captioner,
            groups,
            {"captioning": config.captioning, "contrastive": config.contrastive},
            config.temperature,
            config.noise,
            config.label_smoothing,
        )
        origin.captioner.set_trainable(("text tower", "mapping", "decoder"))
        freeze(origin.captioner, config.frozen)
        check_clip_can_be_saved(origin)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        return self._text(rows, generator)

    def evaluate(self) -> dict[str, float]:
        return {}

    def samples(self) -> list[str]:
        return []

    def write_result(self, folder: Path, *, step: int) -> None:
        write_with_clip(
            self._origin,
            folder,
            stage=self.name,
            step=step,
            dtype="float32",
            data=self._config.data,
            figures={},
        )


@dataclass(frozen=True)
class TextLosses:
    """What captions alone teach: which belong together, and how one is written from another's embedding.

    Args:
        groups: token ids of the captions of each photo.
        weights: of "captioning" and "contrastive".
        temperature, noise, label_smoothing: as in TextConfig.

    Raises:
        TrainingConfigError: captioning weighs nothing, and no photo has two captions.
    """

    captioner: Captioner
    groups: Sequence[Sequence[Tensor]]
    weights: Mapping[str, float]
    temperature: float
    noise: float
    label_smoothing: float

    def __post_init__(self) -> None:
        if self.weights["captioning"] == 0 and all(len(group) < 2 for group in self.groups):
            fault = "is 0, and no photo has two captions that belong together: nothing would be learnt"
            raise TrainingConfigError("captioning", [fault])

    def __call__(self, rows: np.ndarray, generator: torch.Generator) -> Losses:
        """The mean losses of some groups."""
        pairs = [draw_captions(self.groups[row], 2, generator) for row in rows]
        read = self._encode([first for first, _ in pairs])
        parts = {}
        if self.weights["captioning"] > 0:
            parts["captioning"] = self._write(read, [second for _, second in pairs], generator)
        has_other = torch.tensor([len(self.groups[row]) > 1 for row in rows])
        if self.weights["contrastive"] > 0 and has_other.any():
            others = self._encode([pairs[place][1] for place in has_other.nonzero().flatten().tolist()])
            parts["contrastive"] = contrastive_loss(
                read[has_other.to(read.device)], others, scale=1 / self.temperature
            )
        total = 0.0 * read.sum()  # where no photo of this share has a second caption, the loss is 0
        for name, value in parts.items():
            total = total + self.weights[name] * value
        return Losses(total, parts)

    def _encode(self, captions: Sequence[Tensor]) -> Float[Tensor, "captions embed"]:
        return self.captioner.clip.encode_text(self.captioner.bridge.clip_ids(captions)).float()

    def _write(self, read: Tensor, captions: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        noise = torch.randn(read.shape, generator=generator).to(read)
        noisy = read + noise * self.noise / read.shape[1] ** 0.5
        features = ImageFeatures(functional.normalize(noisy, dim=-1))
        return captions_loss(self.captioner, features, captions, label_smoothing=self.label_smoothing)


def run_text(config: TextConfig, places: Places, problems: Problems, *, resume: bool) -> TrainingResult:
    """The stage from its configuration to its checkpoint."""
    return build_and_train(build_text, config, places, problems, resume=resume)


def build_text(config: TextConfig, places: Places, problems: Problems, *, device: torch.device) -> TextStage:
    """The stage with its captions read and its towers at their start."""
    model, seed = config.model, seed_at(0, seed=config.loop.seed)
    if not model.clip:
        merges = places.run(config.tokenizer) if config.tokenizer else None
        folder = places.out / TOWERS
        if distributed.rank() == 0 or not folder.exists():  # the others come later, and may come together
            new_towers(config.towers, places, merges=merges, folder=folder, seed=seed)
        model = replace(model, clip=str(folder.resolve()))
    origin = from_shape(model, places, seed=seed, device=device)
    return TextStage(origin, config, groups=read_groups(origin.captioner, config.data, places, problems))


def read_groups(
    captioner: Captioner, data: DataConfig, places: Places, problems: Problems
) -> list[list[Tensor]]:
    """Token ids of a configuration's captions, those of one photo together.

    Raises:
        DataError: none of them can be used.
    """
    groups = read_caption_groups([places.data / file for file in data.text], problems)
    if data.labelled:
        groups += read_captioned_sources(places.sources(data.labelled), problems).texts()
    encoded = [encode_texts(captioner, group.texts, group.sources, problems)[0] for group in groups]
    kept = [group for group in encoded if group]
    if not kept:
        raise problems.nothing_left("data.text")
    return kept
