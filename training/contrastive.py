"""Training of a small CLIP: an ImageNet image tower and a new text tower learn to agree on pairs."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from models.clip import LOCAL_CONFIG, LOCAL_MERGES, LOCAL_PREFIX, ClipEncoder, write_local_config
from models.config import ClipConfig
from training.augment import augment
from training.config import ContrastiveConfig, Places, TowersConfig
from training.data import CaptionedImages, Problems, read_captioned_folders, sample_rows
from training.loop import Losses
from training.losses import contrastive_loss
from training.metrics import encode_texts
from training.optim import freeze
from training.order import generator_at
from training.pixels import cached_pixels
from training.retrieval import caption_to_image_recall, image_to_caption_recall
from training.shards import ShardedArrays

EVALUATION_BATCH = 100
SHOWN_IMAGES = 4


class ContrastiveStage:
    """InfoNCE over a batch of photos and one caption of each, drawn anew every time (arXiv 2103.00020)."""

    name = "contrastive"

    def __init__(
        self,
        clip: ClipEncoder,
        config: ContrastiveConfig,
        *,
        training: "PixelPairs",
        validation: "PixelPairs | None",
        clip_folder: Path,
    ) -> None:
        self.clip = clip.requires_grad_(True)
        self.module = clip.model
        freeze(self.module, config.frozen)
        visual: Any = self.module.visual
        # 2.8 times as fast as contiguous in fp32 (MobileNetV2, forward and backward, two CPU cores)
        visual.to(memory_format=torch.channels_last)
        self.items = len(training)
        self._config, self._training, self._validation = config, training, validation
        self._token_ids = [clip.tokenize(captions) for captions in training.captioned.captions]
        self._clip_folder = clip_folder

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        # Batch statistics of one kind of photo would replace the running ones that the ImageNet weights need.
        visual: Any = self.module.visual
        visual.eval()
        pixels = augment(self._training.pixels(rows), self._config.augment, generator=generator)
        images = self._encode_pixels(pixels)
        texts = self.clip.encode_text(self._draw_captions(rows, generator))
        logit_scale: Any = self.module.logit_scale
        scale = logit_scale.exp().clamp(max=self._config.max_logit_scale)
        loss = contrastive_loss(images, texts, scale=scale, label_smoothing=self._config.label_smoothing)
        return Losses(loss, {"logit_scale": scale})

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        if self._validation is None:
            return {}
        images, texts, image_of_caption = self._encode_validation(self._validation)
        to_image = caption_to_image_recall(images, texts, image_of_caption)
        to_caption = image_to_caption_recall(images, texts, image_of_caption)
        figures = {f"caption_to_image_{name}": value for name, value in to_image.items()}
        figures |= {f"image_to_caption_{name}": value for name, value in to_caption.items()}
        return figures | {"recall_mean": sum(figures.values()) / len(figures)}

    @torch.no_grad()
    def samples(self) -> list[str]:
        if self._validation is None:
            return []
        images, texts, _ = self._encode_validation(self._validation.head(200))
        nearest = (images[:SHOWN_IMAGES] @ texts.T).argmax(dim=1)
        captions = [caption for group in self._validation.captioned.captions[:200] for caption in group]
        ids = self._validation.captioned.images.ids
        return [f"{ids[row]}: {captions[int(nearest[row])]}" for row in range(len(nearest))]

    def write_result(self, folder: Path, *, step: int) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for file in (LOCAL_CONFIG, LOCAL_MERGES):
            if (self._clip_folder / file).is_file():
                shutil.copyfile(self._clip_folder / file, scratch / file)
        self.clip.save(scratch)
        scratch.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        normalised = self.clip.preprocess.normalize(pixels)
        return self.clip.encode_image(normalised.to(memory_format=torch.channels_last)).embedding

    def _draw_captions(self, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        drawn = []
        for row in rows:
            token_ids = self._token_ids[row]
            drawn.append(token_ids[torch.randint(len(token_ids), (), generator=generator)])
        return torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)

    def _encode_validation(self, pairs: "PixelPairs") -> tuple[Tensor, Tensor, Tensor]:
        chunks = np.array_split(np.arange(len(pairs)), -(-len(pairs) // EVALUATION_BATCH))
        images = torch.cat([self._encode_pixels(pairs.pixels(rows)) for rows in chunks])
        groups = pairs.captioned.captions
        captions = [caption for group in groups for caption in group]
        texts = encode_texts(self.clip, captions)
        image_of_caption = torch.tensor([row for row, group in enumerate(groups) for _ in group])
        return images, texts, image_of_caption


class PixelPairs:
    """Labelled photos with their pixels at hand."""

    def __init__(self, captioned: CaptionedImages, arrays: ShardedArrays) -> None:
        self.captioned = captioned
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self.captioned)

    def pixels(self, rows: np.ndarray) -> Tensor:
        """The photos at these rows as bytes, batch x 3 x height x width."""
        return torch.from_numpy(self._arrays.read("pixels", rows))

    def head(self, count: int) -> "PixelPairs":
        """The first photos."""
        return PixelPairs(self.captioned.select(range(min(count, len(self)))), self._arrays)


def build_contrastive(config: ContrastiveConfig, places: Places, problems: Problems) -> ContrastiveStage:
    """The stage with its data read and its towers at their starting weights."""
    clip, clip_folder = _starting_clip(config, places)
    folders = [places.data / folder for folder in config.data.labelled]
    training = read_captioned_folders(folders, problems)
    rows = sample_rows(len(training), count=config.data.max_labelled, seed=config.data.split_seed)
    validation = None
    if config.data.validation:
        captioned = read_captioned_folders([places.data / config.data.validation], problems)
        validation = _with_pixels(captioned.select(_first(captioned, config)), clip, config, places, problems)
    return ContrastiveStage(
        clip,
        config,
        training=_with_pixels(training.select(rows), clip, config, places, problems),
        validation=validation,
        clip_folder=clip_folder,
    )


def _first(captioned: CaptionedImages, config: ContrastiveConfig) -> range:
    return range(min(len(captioned), config.data.max_validation or len(captioned)))


def _with_pixels(
    captioned: CaptionedImages,
    clip: ClipEncoder,
    config: ContrastiveConfig,
    places: Places,
    problems: Problems,
) -> PixelPairs:
    arrays, readable = cached_pixels(
        captioned.images, clip.preprocess, cache=places.cache, workers=config.data.workers, problems=problems
    )
    return PixelPairs(captioned.select(readable), arrays)


def _starting_clip(config: ContrastiveConfig, places: Places) -> tuple[ClipEncoder, Path]:
    if config.init:
        folder = places.run(config.init)
        return ClipEncoder.load(ClipConfig(f"{LOCAL_PREFIX}{folder}")), folder
    folder = places.out / "towers"
    merges = places.run(config.tokenizer).read_bytes() if config.tokenizer else None
    write_local_config(
        folder,
        name=config.towers.name,
        model=_model_settings(config.towers, places.run(config.tokenizer) if config.tokenizer else None),
        preprocess=_preprocess_settings(config.towers),
        merges=merges,
    )
    weights = load_file(places.data / config.towers.image_weights) if config.towers.image_weights else None
    torch.manual_seed(int(generator_at(0, seed=config.loop.seed).initial_seed()))
    return ClipEncoder.create_local(folder, image_weights=weights), folder


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
