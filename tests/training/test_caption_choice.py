"""Choosing captions of other photos."""

from dataclasses import replace

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


def chooser(pool: CaptionPool, confidence: list[list[float]], **changes: float) -> CaptionChooser:
    """Photos whose embeddings say nothing unless evidence is 0."""
    settings = {"min_confidence": 0.5, "min_captions": 1, "pool_size": 1, "evidence": 100.0} | changes
    images = torch.eye(6)[[4, *range(len(confidence) - 1)]]
    return CaptionChooser(
        pool,
        np.array(confidence, dtype=np.float32),
        images,
        min_confidence=settings["min_confidence"],
        min_captions=int(settings["min_captions"]),
        pool_size=int(settings["pool_size"]),
        evidence=settings["evidence"],
    )


def test_caption_that_names_all_that_is_seen_wins() -> None:
    seen = chooser(POOL, [[0.6, 0.0, 0.4], [0.1, 0.1, 0.1]]).choose(0, owner="9", count=5)
    assert seen is not None
    assert [TEXTS[row] for row in seen.captions] == ["a dog on a couch"]
    assert (seen.thing, seen.confidence) == (0, pytest.approx(0.6))


def test_caption_that_names_what_is_not_seen_loses() -> None:
    seen = chooser(POOL, [[0.9, 0.0, 0.0], [0.1, 0.5, 0.5]], pool_size=3).choose(0, owner="9", count=5)
    assert seen is not None
    assert {TEXTS[row] for row in seen.captions} == {"a dog runs", "a dog in the snow", "a dog jumps"}


def test_clip_decides_among_captions_that_name_the_same() -> None:
    seen = chooser(POOL, [[0.9, 0.0, 0.0], [0.0, 0.0, 0.0]], evidence=0.0).choose(0, owner="9", count=1)
    assert seen is not None
    assert TEXTS[seen.captions[0]] == "a dog in the snow"


def test_photo_never_gets_its_own_caption() -> None:
    confidence = [[0.9, 0.0, 0.0], [0.0, 0.0, 0.0]]
    seen = chooser(POOL, confidence, evidence=0.0, pool_size=6).choose(0, owner="5", count=6)
    assert seen is not None
    assert "a dog in the snow" not in {TEXTS[row] for row in seen.captions}
    assert len(seen.captions) == 4


def test_typical_captions_come_first() -> None:
    embeddings = torch.eye(6)
    embeddings[5] = embeddings[0]
    pool = replace(POOL, embeddings=embeddings)
    seen = chooser(pool, [[0.9, 0.0, 0.0], [0.1, 0.5, 0.5]], pool_size=3).choose(0, owner="9", count=2)
    assert seen is not None
    assert {TEXTS[row] for row in seen.captions} == {"a dog runs", "a dog jumps"}


@pytest.mark.parametrize(
    "changes", [{"min_confidence": 0.95}, {"min_captions": 6}], ids=["not sure enough", "too few captions"]
)
def test_photo_without_a_sure_thing_gets_no_caption(changes: dict[str, float]) -> None:
    assert chooser(POOL, [[0.9, 0.0, 0.0], [0.0, 0.0, 0.0]], **changes).choose(0, owner="9", count=5) is None


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
