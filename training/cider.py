"""CIDEr-D as a reward: what sampled captions share with the captions that people wrote of the same photo."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.bridge import SoftRows
from models.tokenizer import CaptionTokenizer
from training.lazy import Mapped
from training.metrics import words

MAX_N = 4
SIGMA = 6.0
"""Width in words of the penalty on another length than the reference's (arXiv 1411.5726, CIDEr-D)."""
RECENT_PHOTOS = 1024
"""Whose references stay weighted: those of a batch."""
END = "<end>"
"""Counts as the last word, so that a caption cut in the middle of a sentence matches less."""

NGram = tuple[str, ...]


@dataclass(frozen=True)
class Weighted:
    """The n-grams of a caption for n = 1..4, weighted by how rare they are among the photos.

    Args:
        lengths: Euclidean length of each n's weights.
        num_words: words of the caption.
    """

    weights: tuple[Mapping[NGram, float], ...]
    lengths: tuple[float, ...]
    num_words: int


class CiderD:
    """CIDEr-D (arXiv 1411.5726) of any caption against the references of one of its photos.

    Args:
        references: words of each photo's references; document frequencies come from them. They are read again
            when a photo is scored: weighted, those of all COCO would take gigabytes.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        frequency: Counter[NGram] = Counter()
        for group in references:
            frequency.update({gram for words in group for n in range(MAX_N) for gram in _grams(words, n + 1)})
        self._log_photos = math.log(max(len(references), 2))
        self._log_frequency = {gram: math.log(count) for gram, count in frequency.items() if count > 1}
        self._references = references
        self._weighted_references = lru_cache(RECENT_PHOTOS)(self._weigh_references)

    def score(self, words: Sequence[str], photo: int) -> float:
        """0 to 10, as the paper scales it; reports give it in percent, ten times that."""
        written, references = self._weighted(words), self._weighted_references(photo)
        return 10.0 * sum(_agreement(written, one) for one in references) / (MAX_N * len(references))

    def _weigh_references(self, photo: int) -> list[Weighted]:
        return [self._weighted(words) for words in self._references[photo]]

    def _weighted(self, words: Sequence[str]) -> Weighted:
        weights = []
        for n in range(1, MAX_N + 1):
            counts = Counter(_grams(words, n))
            weights.append({gram: count * self._rarity(gram) for gram, count in counts.items()})
        lengths = tuple(math.sqrt(sum(value * value for value in one.values())) for one in weights)
        return Weighted(tuple(weights), lengths, len(words))

    def _rarity(self, gram: NGram) -> float:
        return self._log_photos - self._log_frequency.get(gram, 0.0)


@dataclass(frozen=True)
class CiderRewards:
    """The reward "cider" of captions of a batch of labelled photos.

    Args:
        photos: of each image of the batch its place among `cider`'s photos.
    """

    cider: CiderD
    tokenizer: CaptionTokenizer
    photos: Sequence[int]

    def __call__(
        self, token_ids: Int[Tensor, "captions length"], soft_rows: SoftRows | None = None
    ) -> dict[str, Float[Tensor, "captions"]]:
        """As Rewards in training/estimators.py; without a gradient."""
        captions_per_image = len(token_ids) // len(self.photos)
        scores = [
            self.cider.score(ended_words(row, self.tokenizer), self.photos[place // captions_per_image])
            for place, row in enumerate(token_ids.tolist())
        ]
        return {"cider": torch.tensor(scores, device=token_ids.device)}


def cider_of(token_ids: Sequence[Sequence[Tensor]], tokenizer: CaptionTokenizer) -> CiderD:
    """CIDEr-D against the captions of labelled photos, given as token ids with their end."""

    def words_of(captions: Sequence[Tensor]) -> list[list[str]]:
        return [ended_words(caption.tolist(), tokenizer) for caption in captions]

    return CiderD(Mapped(token_ids, words_of))


def ended_words(token_ids: Sequence[int], tokenizer: CaptionTokenizer) -> list[str]:
    """The words of a caption, and END if it has one."""
    has_end = tokenizer.eos_id in token_ids
    stop = token_ids.index(tokenizer.eos_id) if has_end else len(token_ids)
    written = words(tokenizer.decode([one for one in token_ids[:stop] if one != tokenizer.pad_id]))
    return [*written, END] if has_end else written


def _grams(words: Sequence[str], n: int) -> list[NGram]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _agreement(written: Weighted, reference: Weighted) -> float:
    """Sum over n of the clipped cosines, times the penalty on the difference in length."""
    total = 0.0
    for ours, theirs, our_length, their_length in zip(
        written.weights, reference.weights, written.lengths, reference.lengths, strict=True
    ):
        if our_length and their_length:
            shared = sum(
                min(value, theirs[gram]) * theirs[gram] for gram, value in ours.items() if gram in theirs
            )
            total += shared / (our_length * their_length)
    excess = written.num_words - reference.num_words
    return total * math.exp(-(excess**2) / (2 * SIGMA**2))
