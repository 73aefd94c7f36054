"""Choosing captions of other photos."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from training.caption_choice import CaptionChooser, CaptionPool, photo_key
from training.lexicon import parse_lexicon

LEXICON = parse_lexicon(["0\tcollie\tdog", "1\ttabby\tcat", "2\tsofa\tcouch"])
TEXTS = (
    "a dog runs",
    "a dog on a couch",
    "a cat on a couch",
    "the dog and a cat",
    "a dog in the snow",
    "a dog jumps",
)
POOL = CaptionPool(LEXICON, TEXTS, ("1", "2", "3", "4", "5", "6"), torch.eye(6))


def chooser(
    pool: CaptionPool,
    confidence: list[float],
    *,
    photo: int = 4,
    min_confidence: float = 0.5,
    min_captions: int = 1,
    pool_size: int = 1,
) -> CaptionChooser:
    """For one photo, whose embedding is that of a caption, and one in which nothing is seen."""
    return CaptionChooser(
        pool,
        np.array([confidence, [0.0, 0.0, 0.0]], dtype=np.float32),
        torch.eye(6)[[photo, 5 - photo]],
        min_confidence=min_confidence,
        min_captions=min_captions,
        pool_size=pool_size,
    )


def test_caption_is_the_nearest_that_names_what_is_seen() -> None:
    seen = chooser(POOL, [0.9, 0.0, 0.0]).choose(0, owner="9", count=5)
    assert seen is not None
    assert (tuple(seen.captions), seen.thing) == ((4,), 0)
    assert seen.confidence == pytest.approx(0.9)
    seen = chooser(POOL, [0.0, 0.2, 0.8], photo=2).choose(0, owner="9", count=5)
    assert seen is not None
    assert (tuple(seen.captions), seen.thing) == ((2,), 2)
    assert seen.confidence == pytest.approx(0.8)


def test_captions_that_name_nothing_seen_are_never_chosen() -> None:
    seen = chooser(POOL, [0.9, 0.0, 0.0], photo=2, pool_size=6).choose(0, owner="9", count=6)
    assert seen is not None
    assert sorted(TEXTS[row] for row in seen.captions) == sorted(text for text in TEXTS if "dog" in text)


def test_photo_never_gets_its_own_caption() -> None:
    seen = chooser(POOL, [0.9, 0.0, 0.0], pool_size=6).choose(0, owner="5", count=6)
    assert seen is not None
    assert "a dog in the snow" not in {TEXTS[row] for row in seen.captions}
    assert len(seen.captions) == 4


def test_typical_captions_come_first() -> None:
    embeddings = torch.eye(6)
    embeddings[5] = embeddings[0]
    pool = replace(POOL, embeddings=embeddings)
    seen = chooser(pool, [0.9, 0.0, 0.0], pool_size=5).choose(0, owner="9", count=2)
    assert seen is not None
    assert {TEXTS[row] for row in seen.captions} == {"a dog runs", "a dog jumps"}


def test_captions_with_the_same_words_are_chosen_once() -> None:
    pool = replace(POOL, texts=("A dog runs.", *TEXTS[1:5], "a dog runs"))
    seen = chooser(pool, [0.9, 0.0, 0.0], pool_size=6).choose(0, owner="9", count=6)
    assert seen is not None
    assert len(seen.captions) == len({pool.texts[row].lower().rstrip(".") for row in seen.captions}) == 4


@pytest.mark.parametrize(
    "changes", [{"min_confidence": 0.95}, {"min_captions": 6}], ids=["not sure enough", "too few captions"]
)
def test_photo_without_a_sure_thing_gets_no_caption(changes: dict[str, Any]) -> None:
    assert chooser(POOL, [0.9, 0.0, 0.0], **changes).choose(0, owner="9", count=5) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("coco-unlabeled/COCO_val2014_000000179765.jpg", "179765"),
        ("000000179765.jpg", "179765"),
        ("photos/red.png", "red"),
        ("", ""),
    ],
)
def test_a_photo_is_known_by_its_number_or_its_name(name: str, key: str) -> None:
    assert photo_key(name) == key
