"""Stage 1: next-token cross-entropy on labelled pairs, after an optional warm-up on captions alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.clip import ImageFeatures
from training.config import Places, SupervisedConfig
from training.data import Problems, read_texts
from training.labelled import CaptionPairs, encode_texts, padded, read_pairs
from training.loop import STATES, Losses, TrainingResult, train
from training.losses import caption_cross_entropy
from training.optim import freeze
from training.order import seed_at
from training.starting import Origin, from_checkpoint, from_shape
from training.state import states
from training.validation import Validation, check_best_by, read_validation

TEXT_FOLDER = "text-pretraining"


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
        origin.captioner.set_trainable(("mapping", "decoder"))
        freeze(origin.captioner, config.frozen)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        count, pad_id = self._config.captions_per_image, self.module.tokenizer.pad_id
        token_ids = self._pairs.draw(rows, count=count, pad_id=pad_id, generator=generator)
        token_ids = token_ids.to(self.module.device)
        features = self._pairs.features.batch(rows, generator=generator).to(self.module.device)
        logits = self.module(features, token_ids, captions_per_image=count)
        loss = caption_cross_entropy(
            logits, token_ids, pad_id=pad_id, label_smoothing=self._config.label_smoothing
        )
        return Losses(loss, {})

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


class TextStage:
    """The decoder learns English: a caption's CLIP text embedding, with noise, stands in for an image's.

    Text and image embeddings of one scene differ; noise makes the mapping forgive it (arXiv 2211.00575).
    """

    name = "text pretraining"

    def __init__(
        self,
        origin: Origin,
        config: SupervisedConfig,
        *,
        token_ids: Sequence[Tensor],
        clip_ids: Sequence[Tensor],
    ) -> None:
        self.module = origin.captioner
        self.items = len(token_ids)
        self._origin, self._config = origin, config
        self._token_ids, self._clip_ids = token_ids, clip_ids
        origin.captioner.set_trainable(("mapping", "decoder"))

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        captioner, pad_id = self.module, self.module.tokenizer.pad_id
        token_ids = padded([self._token_ids[row] for row in rows], pad_id).to(captioner.device)
        clip_ids = padded([self._clip_ids[row] for row in rows], 0).to(captioner.device)
        with torch.no_grad():
            embedding = captioner.clip.encode_text(clip_ids).float()
        noise = torch.randn(embedding.shape, generator=generator).to(embedding)
        noisy = embedding + noise * self._config.text_pretraining.noise / embedding.shape[1] ** 0.5
        logits = captioner(ImageFeatures(functional.normalize(noisy, dim=-1)), token_ids)
        loss = caption_cross_entropy(
            logits, token_ids, pad_id=pad_id, label_smoothing=self._config.label_smoothing
        )
        return Losses(loss, {})

    def evaluate(self) -> dict[str, float]:
        return {}

    def samples(self) -> list[str]:
        return []

    def write_result(self, folder: Path, *, step: int) -> None:
        self._origin.write_checkpoint(
            folder, stage=self.name, step=step, dtype="float32", data=self._config.data, figures={}
        )


def run_supervised(
    config: SupervisedConfig, places: Places, problems: Problems, *, resume: bool
) -> TrainingResult:
    """Stage 1 from its configuration to its checkpoint."""
    check_best_by(config.loop.best_by, config.data, config.evaluation)
    if config.init:
        origin = from_checkpoint(places.run(config.init))
    else:
        origin = from_shape(config.model, places, seed=seed_at(0, seed=config.loop.seed))
        has_begun = resume and states(places.out / STATES)
        if config.text_pretraining.epochs > 0 and not has_begun:
            origin = _pretrained_on_text(origin, config, places, problems, resume=resume)
    pairs = read_pairs(origin.captioner, config.data, places, problems)
    validation = read_validation(origin.captioner, config.data, config.evaluation, places, problems)
    problems.report(places.out)
    stage = SupervisedStage(origin, config, pairs=pairs, validation=validation)
    return train(stage, optim=config.optim, loop=config.loop, out=places.out, resume=resume)


def _pretrained_on_text(
    origin: Origin, config: SupervisedConfig, places: Places, problems: Problems, *, resume: bool
) -> Origin:
    texts = read_texts([places.data / file for file in config.data.text], problems)
    token_ids, kept = encode_texts(origin.captioner, texts, problems)
    clip_ids = [origin.captioner.clip.tokenize([texts[row]])[0] for row in kept]
    stage = TextStage(origin, config, token_ids=token_ids, clip_ids=clip_ids)
    loop = replace(
        config.loop,
        epochs=config.text_pretraining.epochs,
        batch_size=config.text_pretraining.batch_size,
        best_by="",
        patience=0,
    )
    result = train(stage, optim=config.optim, loop=loop, out=places.out / TEXT_FOLDER, resume=resume)
    return replace(from_checkpoint(result.folder), parent=None, clip_folder=origin.clip_folder)
