"""CLIP and captioner learn together from pixels: contrastive and captioning loss in one pass (CoCa)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.image_features import ImageFeatures
from training import distributed
from training.augment import augment
from training.config import JointConfig, Places
from training.data import CaptionedImages, Problems, sample_rows
from training.evaluate import read_photos_to_judge
from training.features import FeatureStore, normalised
from training.labelled import captions_loss, draw_captions, encode_captions
from training.lazy import Chosen
from training.loop import TrainingResult, build_and_train
from training.losses import contrastive_loss
from training.metrics import encode_texts
from training.optim import freeze
from training.pixels import cached_pixels
from training.retrieval import caption_to_image_recall
from training.shards import ShardedArrays
from training.sources import read_captioned_sources
from training.stage import Losses
from training.starting import Origin, check_clip_can_be_saved, from_checkpoint, write_with_clip
from training.text import TextLosses, read_groups
from training.validation import Validation

ENCODE_BATCH = 100


class JointStage:
    """A photo's captions are told apart from the other photos', and written from its features."""

    name = "joint"

    def __init__(
        self,
        origin: Origin,
        config: JointConfig,
        *,
        training: "PixelPairs",
        validation: "PixelPairs | None",
        groups: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.module = origin.captioner
        self.items = len(training)
        self._origin, self._config, self._training, self._validation = origin, config, training, validation
        self._figures: dict[str, float] = {}
        self._text = _text_losses(origin, config, groups) if groups else None
        origin.captioner.set_trainable(("image tower", "text tower", "mapping", "decoder"))
        freeze(origin.captioner, config.frozen)
        check_clip_can_be_saved(origin)

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        config, count = self._config, self._config.captions_per_image
        device = self.module.device
        pixels = augment(self._training.pixels(rows), config.augment, generator=generator, device=device)
        features = self._encode(pixels)
        groups = [draw_captions(self._training.token_ids[row], count, generator) for row in rows]
        captions = [caption for group in groups for caption in group]
        parts = {}
        if config.captioning > 0:
            smoothing = config.label_smoothing
            parts["captioning"] = captions_loss(self.module, features, captions, label_smoothing=smoothing)
        if config.contrastive > 0:
            parts["contrastive"] = self._tell_apart(features, captions)
        weights = vars(config)
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        if self._text is not None:
            own = distributed.own_count(config.text.groups)
            drawn = torch.randint(len(self._text.groups), (own,), generator=generator)
            alone = self._text(drawn.numpy(), generator)
            total = total + config.text.weight * alone.total
            parts |= {f"text_{name}": value for name, value in alone.parts.items()}
        return Losses(total, parts)

    def evaluate(self) -> dict[str, float]:
        if self._validation is None:
            return {}
        features = self._validation_features(self._validation)
        validation = Validation(self._validation.captioned, features, self._config.evaluation)
        self._figures = validation.figures(self.module)
        if all(self._validation.captioned.captions):
            self._figures |= self._recall(self._validation, features)
        return self._figures

    def samples(self) -> list[str]:
        if self._validation is None:
            return []
        few = self._validation.head(4)
        features = self._validation_features(few)
        return Validation(few.captioned, features, self._config.evaluation).samples(self.module)

    def write_result(self, folder: Path, *, step: int) -> None:
        write_with_clip(
            self._origin,
            folder,
            stage=self.name,
            step=step,
            dtype=self._config.stored_dtype,
            data=self._config.data,
            figures=self._figures,
        )

    def _encode(self, pixels: Tensor) -> ImageFeatures:
        clip = self.module.clip
        return clip.encode_image(normalised(clip, pixels.to(self.module.device)))

    def _tell_apart(self, features: ImageFeatures, captions: Sequence[Tensor]) -> Tensor:
        """InfoNCE of the photos with the first caption of each, with the second, and so on; their mean."""
        texts = self.module.clip.encode_text(self.module.bridge.clip_ids(captions))
        logit_scale: Tensor = self.module.clip.model.logit_scale  # type: ignore[assignment]
        scale = logit_scale.exp().clamp(max=self._config.max_logit_scale)
        count = self._config.captions_per_image
        losses = [
            contrastive_loss(features.embedding, texts[place::count], scale=scale) for place in range(count)
        ]
        return torch.stack(losses).mean()

    def _validation_features(self, pairs: "PixelPairs") -> FeatureStore:
        chunks = np.array_split(np.arange(len(pairs)), -(-len(pairs) // ENCODE_BATCH))
        return FeatureStore.in_memory(
            ImageFeatures.cat([self._encode(pairs.pixels(rows)) for rows in chunks])
        )

    def _recall(self, pairs: "PixelPairs", features: FeatureStore) -> dict[str, float]:
        """How well CLIP finds the photo of a person's caption, in percent."""
        groups = pairs.captioned.captions
        texts = encode_texts(self.module.clip, [caption for group in groups for caption in group])
        owners = torch.tensor([row for row, group in enumerate(groups) for _ in group], device=texts.device)
        found = caption_to_image_recall(features.embeddings().to(texts.device), texts, owners)
        return {f"reference_{name}": value for name, value in found.items()}


class PixelPairs:
    """Photos with their pixels at hand, and with token ids where they are trained on."""

    def __init__(
        self, captioned: CaptionedImages, arrays: ShardedArrays, token_ids: Sequence[Sequence[Tensor]]
    ) -> None:
        self.captioned = captioned
        self.token_ids = token_ids
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self.captioned)

    def pixels(self, rows: np.ndarray) -> Tensor:
        """The photos at these rows as bytes, batch x 3 x height x width."""
        return torch.from_numpy(self._arrays.read("pixels", rows))

    def head(self, count: int) -> "PixelPairs":
        """The first photos."""
        return PixelPairs(self.captioned.select(range(min(count, len(self)))), self._arrays, self.token_ids)


def run_joint(config: JointConfig, places: Places, problems: Problems, *, resume: bool) -> TrainingResult:
    """The stage from its configuration to its checkpoint."""
    return build_and_train(build_joint, config, places, problems, resume=resume)


def build_joint(
    config: JointConfig, places: Places, problems: Problems, *, device: torch.device
) -> JointStage:
    """The stage with its photos and captions read.

    Raises:
        DataError: of one of its sources nothing can be used.
    """
    origin = from_checkpoint(places.run(config.init), device=device)
    labelled = read_captioned_sources(places.sources(config.data.labelled), problems)
    labelled = labelled.select(
        sample_rows(len(labelled), count=config.data.max_labelled, seed=config.data.split_seed)
    )
    token_ids, rows = encode_captions(origin.captioner, labelled, problems)
    labelled = labelled.select(rows)
    training = _with_pixels(labelled, origin, config, places, problems, token_ids=token_ids)
    if not len(training):
        raise problems.nothing_left("data.labelled")
    validation = None
    if config.data.validation:
        (source,) = places.sources([config.data.validation])
        held_out = read_photos_to_judge(source, problems)
        limits = (len(held_out), config.data.max_validation, config.evaluation.max_images)
        held_out = held_out.select(range(min(limit for limit in limits if limit)))
        validation = _with_pixels(held_out, origin, config, places, problems)
        if not len(validation):
            raise problems.nothing_left("data.validation")
    text = replace(config.data, labelled=())
    groups = read_groups(origin.captioner, text, places, problems) if config.text.weight > 0 else ()
    return JointStage(origin, config, training=training, validation=validation, groups=groups)


def _text_losses(origin: Origin, config: JointConfig, groups: Sequence[Sequence[Tensor]]) -> TextLosses:
    text = config.text
    weights = {"captioning": text.captioning, "contrastive": text.contrastive}
    return TextLosses(origin.captioner, groups, weights, text.temperature, text.noise, config.label_smoothing)


def _with_pixels(
    captioned: CaptionedImages,
    origin: Origin,
    config: JointConfig,
    places: Places,
    problems: Problems,
    *,
    token_ids: Sequence[Sequence[Tensor]] = (),
) -> PixelPairs:
    """The photos that can be read; `token_ids` are of all."""
    arrays, readable = cached_pixels(
        captioned.images,
        origin.captioner.clip.preprocess,
        cache=places.cache,
        workers=config.data.workers,
        problems=problems,
    )
    chosen = Chosen(token_ids, readable) if token_ids else ()
    return PixelPairs(captioned.select(readable), arrays, chosen)
