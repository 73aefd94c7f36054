"""Which existing captions suit a photo: those that name what a classifier sees, and that CLIP finds near."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from training.lexicon import Lexicon
from training.metrics import words

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class CaptionPool:
    """Captions without photos that name at least one thing of a lexicon.

    Args:
        texts: the captions.
        owners: the photo that each was written for, as `photo_key` gives it.
        embeddings: of each, unit vectors from CLIP's text tower.
    """

    lexicon: Lexicon
    texts: Sequence[str]
    owners: Sequence[str]
    embeddings: Float[Tensor, "captions embed"]

    @cached_property
    def names(self) -> Bool[np.ndarray, "captions things"]:
        """Which things each caption names."""
        table = np.zeros((len(self.texts), len(self.lexicon.things)), dtype=bool)
        for row, text in enumerate(self.texts):
            table[row, list(self.lexicon.named_in(text))] = True
        return table

    @cached_property
    def centred(self) -> Float[Tensor, "captions embed"]:
        return _centred(self.embeddings)

    @cached_property
    def owner_table(self) -> np.ndarray:
        return np.asarray(self.owners)


def photo_key(name: str) -> str:
    """What tells the photo of a caption: COCO's number, whatever its file is called, else the file's name."""
    stem = PurePosixPath(name).stem
    number = _LAST_NUMBER.search(stem)
    return str(int(number[1])) if number else stem


@dataclass(frozen=True)
class Choice:
    """Args:
    captions: rows of the pool, the most fitting first.
    thing: place in the lexicon of what the classifier is surest of, among what the captions may name.
    confidence: how sure, 0..1.
    """

    captions: Sequence[int]
    thing: int
    confidence: float


class CaptionChooser:
    """Chooses captions for photos, one after the other.

    Args:
        confidence: of each thing in each photo (Lexicon.confidence).
        images: embeddings of the photos, unit vectors from CLIP's image tower.
        min_confidence: a photo in which no thing is as sure as this gets no caption.
        min_captions: a thing that fewer captions name is not looked for.
        pool_size: captions that CLIP finds nearest, of which the most typical ones are taken.
    """

    def __init__(
        self,
        pool: CaptionPool,
        confidence: Float[np.ndarray, "photos things"],
        images: Float[Tensor, "photos embed"],
        *,
        min_confidence: float,
        min_captions: int,
        pool_size: int,
    ) -> None:
        self._pool, self._confidence = pool, confidence
        self._images = _centred(images)
        self._is_used = pool.names.sum(axis=0) >= min_captions
        self._min_confidence, self._pool_size = min_confidence, pool_size

    def choose(self, photo: int, *, owner: str, count: int) -> Choice | None:
        """At most `count` captions for a photo, never its own; None if the classifier is sure of nothing."""
        sure = self._is_used & (self._confidence[photo] >= self._min_confidence)
        names = self._pool.names
        rows = np.flatnonzero(names[:, sure].any(axis=1) & (self._pool.owner_table != owner))
        if not len(rows):
            return None
        similarity = (self._pool.centred[rows] @ self._images[photo]).numpy()
        nearest = rows[np.argsort(-similarity, kind="stable")[: self._pool_size]]
        thing = int(np.where(sure, self._confidence[photo], 0).argmax())
        chosen = self._distinct(self._typical_first(nearest))[:count]
        return Choice(tuple(chosen), thing, float(self._confidence[photo, thing]))

    def _typical_first(self, rows: Int[np.ndarray, "captions"]) -> Int[np.ndarray, "captions"]:
        """Those that resemble the others first: what many captions say is oftener so (arXiv 1505.04467)."""
        embeddings = self._pool.centred[rows]
        typical = (embeddings @ embeddings.T).mean(dim=1).numpy()
        return rows[np.argsort(-typical, kind="stable")]

    def _distinct(self, rows: Int[np.ndarray, "captions"]) -> list[int]:
        """Captions with the same words once; that several people wrote them has made them typical before."""
        first_rows: dict[tuple[str, ...], int] = {}
        for row in rows.tolist():
            first_rows.setdefault(tuple(words(self._pool.texts[row])), row)
        return list(first_rows.values())


def _centred(embeddings: Float[Tensor, "rows embed"]) -> Float[Tensor, "rows embed"]:
    """Unit vectors less what all share: photos and captions lie apart in CLIP's space (arXiv 2203.02053)."""
    return functional.normalize(embeddings - embeddings.mean(dim=0), dim=-1)
