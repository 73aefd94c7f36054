"""Stage 2: on images without captions, what the decoder writes is pulled towards the image by CLIP."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training import distributed
from training.config import Places, UnsupervisedConfig
from training.config_parts import DataConfig
from training.data import DataError, Images, Problems, sample_rows
from training.estimators import Estimate, build_estimator
from training.features import FeatureStore, cached_features
from training.labelled import CaptionPairs, captions_loss, read_labelled, read_pairs
from training.loop import TrainingResult, build_and_train
from training.losses import kl_to_reference, length_excess, repetition
from training.rewards import ClipRewards
from training.rollout import Rollout, without_dropout
from training.sampling import Sampler
from training.self_critical import SelfCritical
from training.sources import identity, read_image_sources
from training.stage import Losses
from training.starting import (
    Origin,
    check_clip_reads,
    check_decoder_writes,
    choose_what_learns,
    from_checkpoint,
)
from training.validation import Validation, read_validation


class UnsupervisedStage:
    """Rewards of sampled captions under CLIP (arXiv 2306.15111), and what keeps the captions English.

    The similarity alone destroys language (CIDEr 125 to 11, Kornblith et al., ICCV 2023), so the decoder is
    held near its start by KL, to labelled pairs by replayed cross-entropy, to a length, and off repetition.
    """

    name = "unsupervised"

    def __init__(
        self,
        origin: Origin,
        config: UnsupervisedConfig,
        *,
        images: FeatureStore,
        pairs: CaptionPairs | None,
        validation: Validation | None,
    ) -> None:
        self.module = origin.captioner
        self.items = len(images)
        self._origin, self._config = origin, config
        self._images, self._pairs, self._validation = images, pairs, validation
        self._figures: dict[str, float] = {}
        self._reference = _frozen_copy(origin.captioner)
        self._self_critical = (
            SelfCritical(origin.captioner, pairs.token_ids, config.rollout)
            if pairs is not None and config.reward.replay_cider > 0
            else None
        )
        choose_what_learns(origin.captioner, config)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        features = self._images.batch(rows, generator=generator).to(self.module.device)
        with without_dropout(self.module):
            estimate = self._estimate(features, done=done, generator=generator)
        parts = estimate.losses | self._restraints(features, estimate.rollout)
        if self._pairs is not None:
            parts |= self._replay(self._pairs, generator)
        weights = vars(self._config.reward)
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return Losses(total, {**parts, "tokens": estimate.rollout.lengths.float().mean()})

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

    def _estimate(self, features: ImageFeatures, *, done: float, generator: torch.Generator) -> Estimate:
        reward, settings, tokenizer = self._config.reward, self._config.rollout, self.module.tokenizer
        names = ("similarity", "contrastive") if reward.contrastive > 0 else ("similarity",)
        rewards = ClipRewards(self.module, features.embedding, names, reward.contrastive_temperature)
        sampler = Sampler(tokenizer, tokenizer.pad_id, settings.max_tokens, settings.temperature)
        estimator = build_estimator(settings, sampler, done=done)
        return estimator(self.module.decoder, self.module.prefix(features), rewards, generator)

    def _restraints(self, features: ImageFeatures, rollout: Rollout) -> dict[str, Tensor]:
        reward, parts = self._config.reward, {}
        if reward.kl > 0:
            parts["kl"] = kl_to_reference(rollout.logits, self._reference_logits(features, rollout))
        if reward.length > 0:
            ends = rollout.logits.float().softmax(dim=-1)[:, self.module.tokenizer.eos_id]
            parts["length"] = length_excess(
                rollout.spread(ends), rollout.is_token, target=reward.target_length
            )
        if reward.repetition > 0:
            parts["repetition"] = repetition(rollout.logits, rollout.token_ids, rollout.is_token)
        return parts

    @torch.no_grad()
    def _reference_logits(self, features: ImageFeatures, rollout: Rollout) -> Tensor:
        samples = self._config.rollout.samples
        logits: Tensor = self._reference(
            features, rollout.token_ids, captions_per_image=samples, wanted=rollout.is_token
        )
        return logits

    def _replay(self, pairs: CaptionPairs, generator: torch.Generator) -> dict[str, Tensor]:
        count = distributed.own_count(self._config.replay_images)
        rows = torch.randint(len(pairs), (count,), generator=generator).numpy()
        features = pairs.features.batch(rows, generator=generator).to(self.module.device)
        parts = {}
        if self._config.reward.replay > 0:
            captions = pairs.draw(rows, count=self._config.captions_per_image, generator=generator)
            smoothing = self._config.label_smoothing
            parts["replay"] = captions_loss(self.module, features, captions, label_smoothing=smoothing)
        if self._self_critical is not None:
            parts["replay_cider"] = self._self_critical.loss(features, rows, generator)
        return parts


def run_unsupervised(
    config: UnsupervisedConfig, places: Places, problems: Problems, *, resume: bool
) -> TrainingResult:
    """Stage 2 from its configuration to its checkpoint."""
    return build_and_train(build_unsupervised, config, places, problems, resume=resume)


def build_unsupervised(
    config: UnsupervisedConfig, places: Places, problems: Problems, *, device: torch.device
) -> UnsupervisedStage:
    """The stage with its starting checkpoint and its photos read."""
    origin = from_checkpoint(places.run(config.init), device=device)
    check_decoder_writes(origin.captioner, config.rollout)
    check_clip_reads(
        origin.captioner.clip,
        origin.captioner.config.decoder.vocabulary,
        config.rollout.max_tokens,
        setting="rollout.max_tokens",
    )
    images = read_unlabelled(config.data, places, problems)
    features, readable = cached_features(
        images,
        origin.captioner.clip,
        views=config.data.views,
        mapping=origin.captioner.config.mapping,
        cache=places.cache,
        workers=config.data.workers,
        problems=problems,
    )
    if not readable:
        raise problems.nothing_left("data.unlabelled")
    has_replay = config.data.labelled and config.reward.replay + config.reward.replay_cider > 0
    pairs = read_pairs(origin.captioner, config.data, places, problems) if has_replay else None
    validation = read_validation(origin.captioner, config.data, config.evaluation, places, problems)
    return UnsupervisedStage(origin, config, images=features, pairs=pairs, validation=validation)


def read_unlabelled(data: DataConfig, places: Places, problems: Problems) -> Images:
    """The unlabelled images that a configuration uses.

    Raises:
        DataError: there are none, or data.disjoint leaves none.
    """
    images = read_image_sources(places.sources(data.unlabelled), problems)
    if data.disjoint:
        images = _without(read_labelled(data, places, problems).images, images)
    return images.select(sample_rows(len(images), count=data.max_unlabelled, seed=data.split_seed))


def _without(labelled: Images, images: Images) -> Images:
    known = set(map(identity, labelled.files))
    rows = [row for row, file in enumerate(images.files) if identity(file) not in known]
    if not rows:
        raise DataError(
            f"data.disjoint leaves none of {len(images)} unlabelled photos: all are labelled ones that are "
            "used; lower data.max_labelled"
        )
    return images.select(rows)


def _frozen_copy(captioner: Captioner) -> Captioner:
    """The captioner as it is now, sharing CLIP."""
    shared = {id(captioner.clip): captioner.clip, id(captioner.bridge): captioner.bridge}
    return copy.deepcopy(captioner, shared).eval().requires_grad_(False)
