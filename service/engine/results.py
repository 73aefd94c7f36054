"""What the engine answers for one image."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from models.generation import FinishReason

if TYPE_CHECKING:  # whoever counts or keeps results needs no torch
    from torch import Tensor

Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True)
class ScoredCaption:
    """One caption and how well it fits.

    Args:
        clip_similarity: cosine of image and caption, -1..1.
        clip_score: 2.5 x max(cosine, 0), 0..2.5 (arXiv 2104.08718).
        log_likelihood: natural logarithm of the model's probability of the tokens, before any cut.
        num_tokens: tokens decoded, without the end token, before any cut.
    """

    text: str
    token_ids: tuple[int, ...]
    clip_similarity: float
    clip_score: float
    log_likelihood: float
    num_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class StageTimings:
    """Wall-clock seconds that one image spent in each stage; a stage's batch counts whole for each member."""

    queue_s: float
    encode_s: float
    decode_s: float
    score_s: float


@dataclass(frozen=True)
class TextScore:
    """How well a given text fits an image; the numbers are those of ScoredCaption."""

    text: str
    clip_similarity: float
    clip_score: float


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image, in the order of the texts, and where the time went."""

    scores: tuple[TextScore, ...]
    timings: StageTimings


@dataclass(frozen=True)
class ImageCaptions:
    """Captions of one image, best first, and where the time went.

    Args:
        embedding: CLIP's unit vector of the image.
    """

    captions: tuple[ScoredCaption, ...]
    timings: StageTimings
    embedding: "Tensor | None" = field(default=None, compare=False, repr=False)
