"""The tree of beginnings: it holds each once, and every path through it is its text."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import clip as clip_module
from models.prefix_tree import PrefixTree, in_portions
from tests.tiny import WORDS, tiny_clip

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


@given(TEXTS)
def test_each_text_is_what_its_end_looks_at(texts: list[list[int]]) -> None:
    tree = PrefixTree.of(texts, torch.device("cpu"))
    assert len(tree.token_ids) == len(
        {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    )
    for text, end in zip(texts, tree.ends.tolist(), strict=True):
        seen = (tree.mask[end] == 0).nonzero().squeeze(1)
        ordered = seen[tree.depths[seen].argsort()]
        assert tree.token_ids[ordered].tolist() == text
        assert tree.depths[ordered].tolist() == list(range(len(text)))
    assert set(tree.mask.flatten().tolist()) <= {0.0, -float("inf")}


@given(TEXTS, st.integers(1, 20))
def test_portions_hold_the_texts_in_their_order_and_no_more_tokens_than_asked(
    texts: list[list[int]], most: int
) -> None:
    given_texts = [tuple(text) for text in texts]
    portions = in_portions(given_texts, max_tokens=most)
    assert [text for portion in portions for text in portion] == given_texts
    assert all(len(portion) == 1 or sum(map(len, portion)) <= most for portion in portions)


@pytest.mark.parametrize("at_once", [1, 50, 512])
@torch.no_grad()
def test_texts_of_the_same_ids_get_the_same_vector_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(clip_module, "TREE_TOKENS", at_once)
    drawn = random.Random(0)
    texts = [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 12))) for _ in range(40)]
    vectors = tiny_clip(tmp_path).encode_captions(texts + [text.upper() for text in texts])
    assert torch.equal(vectors[:40], vectors[40:])


@pytest.mark.parametrize("at_once", [1, 12, 512])
@torch.no_grad()
def test_texts_that_begin_alike_are_read_as_open_clip_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(clip_module, "TREE_TOKENS", at_once)
    clip = tiny_clip(tmp_path)
    texts = [
        "a dog in snow",
        "a dog",
        "",
        "the cat",
        "a dog on water",
        "a dog",
        "a",
        "a cat in snow",
        "dog " * 99,
    ]
    expected = clip.model.encode_text(clip.tokenizer(texts), normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(clip.encode_captions(texts), expected)
