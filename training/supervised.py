"""Stage 1: next-token cross-entropy on labelled pairs, after an optional warm-up on captions alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.clip import ImageFeatures
from training import distributed
from training.config import Places, SupervisedConfig
from training.data import Problems, read_texts
from training.labelled import CaptionPairs, encode_texts, padded, read_pairs
from training.loop import RESULT, Losses, TrainingResult, train
from training.losses import caption_cross_entropy
from training.order import seed_at
from training.starting import Origin, choose_what_learns, from_checkpoint, from_shape
from training.validation import Validation, read_validation

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
        choose_what_learns(origin.captioner, config)

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
        texts: Sequence[str],
        token_ids: Sequence[Tensor],
    ) -> None:
        self.module = origin.captioner
        self.items = len(token_ids)
        self._origin, self._config = origin, config
        self._texts, self._token_ids = texts, token_ids
        origin.captioner.set_trainable(("mapping", "decoder"))

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        captioner, pad_id = self.module, self.module.tokenizer.pad_id
        token_ids = padded([self._token_ids[row] for row in rows], pad_id).to(captioner.device)
        with torch.no_grad():
            embedding = captioner.clip.encode_captions([self._texts[row] for row in rows]).float()
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
    origin = starting_point(config, places)
    if config.text_pretraining.epochs > 0 and not config.init:
        origin = _pretrained_on_text(origin, config, places, resume=resume)
    with distributed.first_rank_first():
        stage = build_supervised(origin, config, places, problems)
        problems.report(places.out)
    return train(stage, optim=config.optim, loop=config.loop, out=places.out, resume=resume)


def starting_point(config: SupervisedConfig, places: Places) -> Origin:
    """The checkpoint that the configuration names, or a new captioner."""
    device = distributed.start(config.loop.device)
    if config.init:
        return from_checkpoint(places.run(config.init), device=device)
    return from_shape(config.model, places, seed=seed_at(0, seed=config.loop.seed), device=device)


def build_supervised(
    origin: Origin, config: SupervisedConfig, places: Places, problems: Problems
) -> SupervisedStage:
    """The stage with its photos and captions read."""
    pairs = read_pairs(origin.captioner, config.data, places, problems)
    validation = read_validation(origin.captioner, config.data, config.evaluation, places, problems)
    return SupervisedStage(origin, config, pairs=pairs, validation=validation)


def _pretrained_on_text(origin: Origin, config: SupervisedConfig, places: Places, *, resume: bool) -> Origin:
    """The captioner after its warm-up; one that was warmed up by the run that goes on is read again."""
    out = places.out / TEXT_FOLDER
    if not (resume and (out / RESULT).is_dir()):
        problems = Problems()
        with distributed.first_rank_first():
            stage = build_text_stage(origin, config, places, problems)
            problems.report(out)
        loop = replace(
            config.loop,
            epochs=config.text_pretraining.epochs,
            batch_size=config.text_pretraining.batch_size,
            best_by="",
            patience=0,
        )
        train(stage, optim=config.optim, loop=loop, out=out, resume=resume)
    warm = from_checkpoint(out / RESULT, device=origin.captioner.device)
    return replace(warm, parent=None, clip_folder=origin.clip_folder)


def build_text_stage(
    origin: Origin, config: SupervisedConfig, places: Places, problems: Problems
) -> TextStage:
    """The warm-up with its captions read; 195,000 take nine seconds on one core."""
    texts = read_texts([places.data / file for file in config.data.text], problems)
    token_ids, kept = encode_texts(origin.captioner, texts.texts, texts.sources, problems)
    return TextStage(origin, config, texts=[texts.texts[row] for row in kept], token_ids=token_ids)
