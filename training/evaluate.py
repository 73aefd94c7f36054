"""A checkpoint on photos: the captions it writes and what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.clip import ClipEncoder
from models.clip_folder import LOCAL_PREFIX
from models.config import ClipConfig, MappingConfig
from models.decode import decode
from models.generation import GenerationOptions
from models.manifest import SECOND_SCORER, read_manifest
from training import distributed
from training.data import CaptionedImages, DataError, Images, Problems
from training.features import FeatureStore, cached_features
from training.figures import SECOND
from training.folders import METADATA, read_images
from training.metrics import Scores, clip_scores, encode_references, language_scores, reference_scores
from training.report import EvaluatedImage, Report
from training.sources import Source, read_captioned_sources
from training.webdataset import find_shards

REPORTED_OPTIONS = ("strategy", "num_beams", "max_tokens", "length_penalty", "no_repeat_ngram_size")
BATCH_SIZE = 64
"""Images decoded together."""

CAPTIONING_SLAB = 256
"""Images captioned between two moves of the progress bar."""


@dataclass(frozen=True)
class EvaluationPhotos:
    """The photos of a folder, with their captions where it has any.

    Args:
        problems: what was left out while reading.
    """

    name: str
    captioned: CaptionedImages
    problems: Problems


@dataclass(frozen=True)
class SecondOpinion:
    """A scorer that no loss has seen, with its own view of the same images and their references."""

    scorer: ClipEncoder
    image_embeddings: Float[Tensor, "images embed"]
    reference_embeddings: tuple[Float[Tensor, "references embed"], ...]
    prompt: str


def read_evaluation_photos(source: Path, *, limit: int = 0) -> EvaluationPhotos:
    """The labelled photos of any data source, or every photo below a folder that has no captions.

    Args:
        limit: photos used, the first ones; 0 for all. CIDEr-D and r@k depend on it.

    Raises:
        DataError: no such source, no photo in it, or a line of its captions that cannot be used.
    """
    problems = Problems()
    if not source.is_dir() and not source.name.partition("#")[0].endswith((".json", ".tar")):
        what = "is a file" if source.exists() else "does not exist"
        raise DataError(
            f"{source} {what}; the photos to evaluate on are a folder, with {METADATA} if labelled"
        )
    captioned = read_photos_to_judge(source, problems)
    rows = range(min(limit or len(captioned), len(captioned)))
    return EvaluationPhotos(source.resolve().name, captioned.select(rows), problems)


def read_photos_to_judge(source: Source, problems: Problems) -> CaptionedImages:
    """The labelled photos of a source; of a folder that has no captions every photo, each with none."""
    if isinstance(source, Path) and _has_photos_alone(source):
        images = read_images(source, problems)
        return CaptionedImages(images, ((),) * len(images), images.ids)
    return read_captioned_sources([source], problems)


def _has_photos_alone(source: Path) -> bool:
    return source.is_dir() and not (source / METADATA).exists() and not find_shards(source)


def beam_options(num_beams: int, **others: Any) -> GenerationOptions:
    """A beam of this width; 1 is greedy decoding."""
    return GenerationOptions("beam" if num_beams > 1 else "greedy", num_beams=num_beams, **others)


def evaluate_checkpoint(
    checkpoint: Path,
    photos: EvaluationPhotos,
    *,
    options: GenerationOptions,
    cache: Path,
    second_scorer: Path = SECOND_SCORER,
    prompt: str = "",
    device: str = "auto",
) -> Report:
    """Captions photos and measures the captions; without references, by CLIP and as language alone.

    Args:
        options: as far as the decoder has positions for max_tokens; the report says how many it took.
        cache: folder for CLIP features; may be used again.
        second_scorer: CLIP folder that judges too.
        device: as loop.device.

    Raises:
        DataError: none of the photos can be read.
    """
    manifest = read_manifest(checkpoint)
    captioner = load_captioner(checkpoint, device=distributed.start(device))
    longest = min(options.max_tokens, captioner.decoder.longest_caption)
    options = replace(options, max_tokens=longest)
    problems = Problems(list(photos.problems.items))
    captioned, features = _readable(photos, captioner, cache, problems)
    second = read_second_opinion(second_scorer, captioned, cache, device=captioner.device, prompt=prompt)
    captions = _write_with_progress(captioner, features, options)
    scores = measure(captioner, captioned, features, captions=captions, second=second, prompt=prompt)
    return Report(
        model=manifest.name,
        version=manifest.version,
        stage=manifest.provenance.stage,
        step=manifest.provenance.step,
        data=photos.name,
        images=len(captioned),
        decoding={name: vars(options)[name] for name in REPORTED_OPTIONS},
        scorer=_scorer_name(captioner.clip),
        second_scorer=_scorer_name(second.scorer),
        prompt=prompt,
        figures=scores.figures,
        skipped=problems.counts(),
        captions=_evaluated_images(captioned, captions, scores),
    )


def _readable(
    photos: EvaluationPhotos, captioner: Captioner, cache: Path, problems: Problems
) -> tuple[CaptionedImages, FeatureStore]:
    """The photos that can be read, and what the captioner reads of them."""
    features, rows = evaluation_features(
        photos.captioned.images,
        captioner.clip,
        mapping=captioner.config.mapping,
        cache=cache,
        problems=problems,
    )
    if not rows:
        first = next(item.where for item in problems.items if item.kind == "unreadable image")
        raise DataError(f"no photo of {photos.name} can be read; the first: {first}")
    return photos.captioned.select(rows), features


def measure(
    captioner: Captioner,
    captioned: CaptionedImages,
    features: FeatureStore,
    *,
    captions: Sequence[str],
    second: SecondOpinion | None = None,
    prompt: str = "",
) -> Scores:
    """Agreement with the references where there are any, fit under each scorer, signs of degeneration."""
    references = captioned.captions
    scores = reference_scores(captions, references) if all(references) else Scores()
    scores |= clip_scores(
        captions,
        image_embeddings=features.embeddings(),
        reference_embeddings=encode_references(captioner.clip, references, prompt=prompt),
        scorer=captioner.clip,
        prompt=prompt,
    )
    if second is not None:
        opinion = clip_scores(
            captions,
            image_embeddings=second.image_embeddings,
            reference_embeddings=second.reference_embeddings,
            scorer=second.scorer,
            prompt=second.prompt,
        )
        scores |= opinion.prefixed(SECOND)
    return scores | language_scores(captions)


@torch.no_grad()
def write_captions(
    captioner: Captioner,
    features: FeatureStore,
    options: GenerationOptions,
    *,
    rows: np.ndarray,
    batch_size: int,
) -> list[str]:
    """The best caption of each of these images."""
    chunks = np.array_split(rows, -(-len(rows) // batch_size))
    prefix = torch.cat([captioner.prefix(features.batch(chunk).to(captioner.device)) for chunk in chunks])
    candidates = decode(captioner.decoder, prefix, options, tokens=captioner.tokenizer, max_images=batch_size)
    return [captioner.tokenizer.decode(image[0].token_ids) for image in candidates]


def evaluation_features(
    images: Images,
    clip: ClipEncoder,
    *,
    mapping: MappingConfig | None = None,
    cache: Path,
    problems: Problems,
) -> tuple[FeatureStore, list[int]]:
    """Features of the pictures as they are, and the rows of the readable ones."""
    return cached_features(
        images,
        clip,
        views=("original",),
        mapping=mapping,
        cache=cache,
        workers=2,
        problems=problems,
    )


def read_second_opinion(
    folder: Path, captioned: CaptionedImages, cache: Path, *, device: torch.device, prompt: str = ""
) -> SecondOpinion:
    """Another CLIP and its view of images that are known to be readable."""
    scorer = ClipEncoder.load(ClipConfig(f"{LOCAL_PREFIX}{folder}")).eval().to(device)
    features, _ = evaluation_features(captioned.images, scorer, cache=cache, problems=Problems())
    references = encode_references(scorer, captioned.captions, prompt=prompt)
    return SecondOpinion(scorer, features.embeddings(), references, prompt)


def _write_with_progress(
    captioner: Captioner, features: FeatureStore, options: GenerationOptions
) -> list[str]:
    rows = np.arange(len(features))
    slabs = np.array_split(rows, -(-len(rows) // CAPTIONING_SLAB))
    console = Console(stderr=True)
    captions: list[str] = []
    for slab in track(slabs, "captioning", console=console, transient=True, disable=not console.is_terminal):
        captions += write_captions(captioner, features, options, rows=slab, batch_size=BATCH_SIZE)
    return captions


def _evaluated_images(
    captioned: CaptionedImages, captions: Sequence[str], scores: Scores
) -> tuple[EvaluatedImage, ...]:
    of_image = [
        dict(zip(scores.per_caption, map(float, values), strict=True))
        for values in zip(*scores.per_caption.values(), strict=True)
    ]
    rows = zip(captioned.images.ids, captions, of_image, captioned.captions, strict=True)
    return tuple(EvaluatedImage(*row) for row in rows)


def _scorer_name(clip: ClipEncoder) -> str:
    return f"{clip.name} ({clip.revision})"
