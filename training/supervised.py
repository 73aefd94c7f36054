"""Stage 1: next-token cross-entropy on labelled pairs, and self-critical CIDEr-D where it is asked for."""

from pathlib import Path

import numpy as np
import torch

from training.config import Places, SupervisedConfig
from training.data import Problems
from training.labelled import CaptionPairs, captions_loss, read_pairs
from training.loop import TrainingResult, build_and_train
from training.order import seed_at
from training.self_critical import SelfCritical
from training.stage import Losses
from training.starting import (
    Origin,
    check_decoder_writes,
    choose_what_learns,
    from_checkpoint,
    from_shape,
)
from training.validation import Validation, read_validation


class SupervisedStage:
    """All captions drawn for an image share its prefix, so a batch costs little more than its captions."""

    name = "supervised"

    def __init__(
        self, origin: Origin, config: SupervisedConfig, *, pairs: CaptionPairs, validation: Validation | None
    ) -> None:
        self.module = origin.captioner
        self.items = len(pairs)
        self._origin, self._config, self._pairs, self._validation = origin, config, pairs, validation
        self._figures: dict[str, float] = {}
        self._self_critical = (
            SelfCritical(origin.captioner, pairs.token_ids, config.rollout) if config.cider > 0 else None
        )
        choose_what_learns(origin.captioner, config)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        features = self._pairs.features.batch(rows, generator=generator).to(self.module.device)
        captions = self._pairs.draw(rows, count=self._config.captions_per_image, generator=generator)
        loss = captions_loss(self.module, features, captions, label_smoothing=self._config.label_smoothing)
        if self._self_critical is None:
            return Losses(self._config.captioning * loss, {})
        earned = self._self_critical.loss(features, rows, generator)
        total = self._config.captioning * loss + self._config.cider * earned
        return Losses(total, {"captioning": loss, "cider": earned})

    def evaluate(self) -> dict[str, float]:
        self._figures = self._validation.figures(self.module) if self._validation else {}
        return self._figures

    def samples(self) -> list[str]:
        return self._validation.samples(self.module) if self._validation else []

    def write_result(self, folder: Path, *, step: int) -> None:
        self._origin.write_checkpoint(
            folder,
            stage=self.name,
            step=step,
            dtype=self._config.stored_dtype,
            data=self._config.data,
            figures=self._figures,
        )


def run_supervised(
    config: SupervisedConfig, places: Places, problems: Problems, *, resume: bool
) -> TrainingResult:
    """Stage 1 from its configuration to its checkpoint."""
    return build_and_train(build_supervised, config, places, problems, resume=resume)


def build_supervised(
    config: SupervisedConfig, places: Places, problems: Problems, *, device: torch.device
) -> SupervisedStage:
    """The stage with its starting checkpoint, or a new captioner, and its photos and captions read."""
    origin = (
        from_checkpoint(places.run(config.init), device=device)
        if config.init
        else from_shape(config.model, places, seed=seed_at(0, seed=config.loop.seed), device=device)
    )
    if config.cider > 0:
        check_decoder_writes(origin.captioner, config.rollout)
    pairs = read_pairs(origin.captioner, config.data, places, problems)
    validation = read_validation(origin.captioner, config.data, config.evaluation, places, problems)
    return SupervisedStage(origin, config, pairs=pairs, validation=validation)
