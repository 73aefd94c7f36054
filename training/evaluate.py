"""A checkpoint on labelled photos: the captions it writes and what they are worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from models.captioner import Captioner
from models.checkpoint import load_captioner, read_manifest
from models.clip import LOCAL_PREFIX, ClipEncoder
from models.config import ClipConfig
from models.decode import decode
from models.generation import GenerationOptions
from training import distributed
from training.data import CaptionedImages, Images, Problems, read_captioned_images
from training.features import FeatureStore, cached_features
from training.metrics import language_figures, reference_figures, score_captions

REPORTED_OPTIONS = ("strategy", "num_beams", "max_tokens", "length_penalty")
CAPTIONING_SLAB = 256
"""Images captioned between two moves of the progress bar."""


@dataclass(frozen=True)
class SecondOpinion:
    """A scorer that no loss has seen, with its own view of the same images."""

    scorer: ClipEncoder
    image_embeddings: Float[Tensor, "images embed"]


@dataclass(frozen=True)
class Measured:
    """Captions and what they are worth.

    Args:
        figures: those of the second scorer start with "second_".
        similarities: cosine of each caption and its image under the captioner's own CLIP.
    """

    captions: Sequence[str]
    figures: Mapping[str, float]
    similarities: Sequence[float]


@dataclass(frozen=True)
class EvaluatedImage:
    """One image of a report."""

    image: str
    caption: str
    clip_similarity: float
    references: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An evaluation with everything needed to repeat it; percentages are 0..100.

    Args:
        scorer: name and revision of the CLIP behind clip_score and r@k.
        prompt: text that CLIP reads before each caption.
        skipped: what the data set lost, by kind.
    """

    model: str
    version: str
    stage: str
    step: int
    data: str
    images: int
    decoding: Mapping[str, object]
    scorer: str
    second_scorer: str | None
    prompt: str
    figures: Mapping[str, float]
    skipped: Mapping[str, int]
    captions: tuple[EvaluatedImage, ...]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def table(self) -> Table:
        """For the terminal."""
        table = Table("figure", "value", box=None)
        table.add_row("model", f"{self.model} {self.version} ({self.stage}, step {self.step})")
        table.add_row("photos", f"{self.images} of {self.data}")
        table.add_row("scorer", self.scorer)
        if self.second_scorer:
            table.add_row("second scorer", self.second_scorer)
        for name, value in self.figures.items():
            table.add_row(name, f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}")
        return table


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path,
    *,
    options: GenerationOptions,
    cache: Path,
    limit: int = 0,
    second_scorer: Path | None = None,
    prompt: str = "",
    batch_size: int = 64,
) -> Report:
    """Captions the photos of a labelled folder and measures the captions.

    Args:
        limit: photos used, the first ones; 0 for all. CIDEr-D depends on it.
        cache: folder for CLIP features; may be used again.
        second_scorer: folder of another CLIP that judges too.
    """
    manifest = read_manifest(checkpoint)
    captioner = load_captioner(checkpoint, device=distributed.start("auto"))
    problems = Problems()
    captioned = read_captioned_images(data, problems)
    captioned = captioned.select(range(min(limit or len(captioned), len(captioned))))
    features, readable = evaluation_features(
        captioned.images,
        captioner.clip,
        with_grid=captioner.config.mapping.kind == "grid",
        with_norm=captioner.config.mapping.embedding == "raw",
        cache=cache,
        problems=problems,
    )
    captioned = captioned.select(readable)
    second = None
    if second_scorer:
        second = read_second_opinion(second_scorer, captioned, cache, device=captioner.device)
    captions = _write_with_progress(captioner, features, options, batch_size=batch_size)
    measured = measure(captioner, captioned, features, captions=captions, second=second, prompt=prompt)
    return Report(
        model=manifest.name,
        version=manifest.version,
        stage=manifest.provenance.stage,
        step=manifest.provenance.step,
        data=data.name,
        images=len(captioned),
        decoding={name: vars(options)[name] for name in REPORTED_OPTIONS},
        scorer=_scorer_name(captioner.clip),
        second_scorer=_scorer_name(second.scorer) if second else None,
        prompt=prompt,
        figures=measured.figures,
        skipped=problems.counts(),
        captions=tuple(
            EvaluatedImage(*row)
            for row in zip(
                captioned.images.ids, captions, measured.similarities, captioned.captions, strict=True
            )
        ),
    )


def measure(
    captioner: Captioner,
    captioned: CaptionedImages,
    features: FeatureStore,
    *,
    captions: Sequence[str],
    second: SecondOpinion | None = None,
    prompt: str = "",
) -> Measured:
    """Agreement with the references, fit under each scorer, and signs of degeneration."""
    references = captioned.captions
    figures = reference_figures(captions, references) | language_figures(captions)
    own = score_captions(
        captions, references, image_embeddings=features.embeddings(), scorer=captioner.clip, prompt=prompt
    )
    figures |= own.figures
    if second is not None:
        other = score_captions(
            captions,
            references,
            image_embeddings=second.image_embeddings,
            scorer=second.scorer,
            prompt=prompt,
        )
        figures |= {f"second_{name}": value for name, value in other.figures.items()}
    return Measured(captions, figures, own.similarity.tolist())


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
    with_grid: bool,
    with_norm: bool = False,
    cache: Path,
    problems: Problems,
) -> tuple[FeatureStore, list[int]]:
    """Features of the pictures as they are, and the rows of the readable ones."""
    return cached_features(
        images,
        clip,
        views=("original",),
        with_grid=with_grid,
        with_norm=with_norm,
        cache=cache,
        workers=2,
        problems=problems,
    )


def read_second_opinion(
    folder: Path, captioned: CaptionedImages, cache: Path, *, device: torch.device
) -> SecondOpinion:
    """Another CLIP and its view of images that are known to be readable."""
    scorer = ClipEncoder.load(ClipConfig(f"{LOCAL_PREFIX}{folder}")).eval().to(device)
    features, _ = evaluation_features(
        captioned.images, scorer, with_grid=False, cache=cache, problems=Problems()
    )
    return SecondOpinion(scorer, features.embeddings())


def _write_with_progress(
    captioner: Captioner, features: FeatureStore, options: GenerationOptions, *, batch_size: int
) -> list[str]:
    rows = np.arange(len(features))
    slabs = np.array_split(rows, -(-len(rows) // CAPTIONING_SLAB))
    console = Console(stderr=True)
    captions: list[str] = []
    for slab in track(slabs, "captioning", console=console, transient=True, disable=not console.is_terminal):
        captions += write_captions(captioner, features, options, rows=slab, batch_size=batch_size)
    return captions


def _scorer_name(clip: ClipEncoder) -> str:
    return f"{clip.name} ({clip.revision})"
