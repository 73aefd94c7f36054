"""Stage 2: on images without captions, what the decoder writes is pulled towards the image by CLIP."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training.config import Places, UnsupervisedConfig
from training.data import Problems, sample_rows
from training.features import FeatureStore, cached_features
from training.labelled import CaptionPairs, captions_loss, read_pairs
from training.loop import Losses, TrainingResult, train
from training.losses import (
    clip_similarity_loss,
    kl_to_reference,
    length_excess,
    retrieval_loss,
)
from training.optim import freeze
from training.rollout import Rollout, Sampler, without_dropout
from training.sources import read_image_sources
from training.starting import Origin, from_checkpoint
from training.toml_reader import TrainingConfigError
from training.validation import Validation, read_validation


class UnsupervisedStage:
    """Minus the CLIP similarity of sampled captions (arXiv 2306.15111), and what keeps them English.

    The similarity alone destroys language (CIDEr 125 to 11, Kornblith et al., ICCV 2023), so the decoder is
    held near its start by KL, to labelled pairs by replayed cross-entropy, and to a length.
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
        origin.captioner.set_trainable(("mapping", "decoder"))
        self._reference = _frozen_copy(origin.captioner)
        freeze(origin.captioner, config.frozen)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        features = self._images.batch(rows, generator=generator).to(self.module.device)
        with without_dropout(self.module):
            rollout = self._roll_out(features, done=done, generator=generator)
            parts = self._rewards(features, rollout)
        parts |= self._restraints(features, rollout)
        if self._pairs is not None and self._config.reward.replay > 0:
            parts["replay"] = self._replay(self._pairs, generator)
        weights = vars(self._config.reward)
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return Losses(total, {**parts, "tokens": rollout.lengths.float().mean()})

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

    def _roll_out(self, features: ImageFeatures, *, done: float, generator: torch.Generator) -> Rollout:
        settings, tokenizer = self._config.rollout, self.module.tokenizer
        sampler = Sampler(
            tokens=tokenizer,
            pad_id=tokenizer.pad_id,
            samples=settings.samples,
            max_tokens=settings.max_tokens,
            gumbel_tau=settings.gumbel_tau + done * (settings.final_gumbel_tau - settings.gumbel_tau),
        )
        roll_out = {"gumbel-parallel": sampler.parallel, "gumbel-recurrent": sampler.recurrent}
        return roll_out[settings.estimator](self.module.decoder, self.module.prefix(features), generator)

    def _rewards(self, features: ImageFeatures, rollout: Rollout) -> dict[str, Tensor]:
        reward, samples = self._config.reward, self._config.rollout.samples
        texts = self.module.encode_soft_captions(rollout.one_hot, rollout.token_ids)
        images = features.embedding.repeat_interleave(samples, dim=0)
        parts = {"similarity": clip_similarity_loss(images, texts)}
        if reward.contrastive > 0:
            parts["contrastive"] = retrieval_loss(
                features.embedding, texts, temperature=reward.contrastive_temperature
            )
        return parts

    def _restraints(self, features: ImageFeatures, rollout: Rollout) -> dict[str, Tensor]:
        reward, parts = self._config.reward, {}
        is_word = rollout.is_word.float()
        if reward.kl > 0:
            with torch.no_grad():
                samples = self._config.rollout.samples
                expected = self._reference(features, rollout.token_ids, captions_per_image=samples)
            parts["kl"] = kl_to_reference(rollout.logits, expected, is_word)
        if reward.length > 0:
            ends = rollout.logits.float().softmax(dim=-1)[..., self.module.tokenizer.eos_id]
            parts["length"] = length_excess(ends, is_word, target=reward.target_length)
        return parts

    def _replay(self, pairs: CaptionPairs, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pairs), (self._config.replay_images,), generator=generator).numpy()
        captions = pairs.draw(rows, count=self._config.captions_per_image, generator=generator)
        features = pairs.features.batch(rows, generator=generator).to(self.module.device)
        return captions_loss(self.module, features, captions, label_smoothing=self._config.label_smoothing)


def run_unsupervised(
    config: UnsupervisedConfig, places: Places, problems: Problems, *, resume: bool
) -> TrainingResult:
    """Stage 2 from its configuration to its checkpoint."""
    origin = from_checkpoint(places.run(config.init))
    _check_context(config, origin.captioner)
    images = read_image_sources([places.data / folder for folder in config.data.unlabelled], problems)
    images = images.select(
        sample_rows(len(images), count=config.data.max_unlabelled, seed=config.data.split_seed)
    )
    features, _ = cached_features(
        images,
        origin.captioner.clip,
        views=config.data.views,
        with_grid=origin.captioner.config.mapping.kind == "grid",
        with_norm=origin.captioner.config.mapping.embedding == "raw",
        cache=places.cache,
        workers=config.data.workers,
        problems=problems,
    )
    has_replay = config.data.labelled and config.reward.replay > 0
    pairs = read_pairs(origin.captioner, config.data, places, problems) if has_replay else None
    validation = read_validation(origin.captioner, config.data, config.evaluation, places, problems)
    problems.report(places.out)
    stage = UnsupervisedStage(origin, config, images=features, pairs=pairs, validation=validation)
    return train(stage, optim=config.optim, loop=config.loop, out=places.out, resume=resume)


def _frozen_copy(captioner: Captioner) -> Captioner:
    """The captioner as it is now, sharing CLIP."""
    shared = {id(captioner.clip): captioner.clip, id(captioner.bridge): captioner.bridge}
    return copy.deepcopy(captioner, shared).eval().requires_grad_(False)


def _check_context(config: UnsupervisedConfig, captioner: Captioner) -> None:
    limit = captioner.clip.context_length - 2
    if captioner.config.decoder.vocabulary == "clip" and config.rollout.max_tokens > limit:
        raise TrainingConfigError(
            "rollout.max_tokens",
            [f"is {config.rollout.max_tokens}; CLIP's text tower reads {limit} words between start and end"],
        )
