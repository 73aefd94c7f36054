"""Sequences on disk behave as the tuples that they stand for."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.labelled import TokenLists
from training.lazy import Chosen, Joined, LazySequence, Mapped, TextWriter


@given(st.lists(st.text()))
def test_texts_come_back_as_they_were_written(texts: list[str]) -> None:
    assert written(texts) == texts


def test_rows_slices_and_ends_are_those_of_a_tuple() -> None:
    texts = ("a", "", "ccc", "ü€")
    lazy = written(texts)
    for rows in (slice(None), slice(1, 3), slice(-2, None), slice(3, 0, -1), slice(9, 12)):
        assert lazy[rows] == list(texts[rows])
    assert (lazy[0], lazy[-1], len(lazy), list(lazy)) == ("a", "ü€", 4, list(texts))
    assert lazy != texts[:3]
    assert lazy != (*texts[:3], "x")
    with pytest.raises(IndexError):
        lazy[4]


def test_a_name_that_is_not_utf_8_survives() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert written([name])[0] == name
    assert Path(written([name])[0]) == Path(name)


def test_chosen_rows_of_chosen_rows() -> None:
    chosen = Chosen(Chosen("abcdef", [5, 3, 1, 0]), [0, 2, 2])
    assert chosen == ("f", "b", "b")


def test_joined_and_mapped_rows() -> None:
    joined = Joined([Mapped(written(["a", "b"]), str.upper), (), ("c",)])
    assert joined == ("A", "B", "c")
    assert joined[-1] == "c"
    assert Joined([]) == ()


def written(texts: list[str] | tuple[str, ...]) -> LazySequence[str]:
    writer = TextWriter()
    for text in texts:
        writer.append(text)
    return writer.finish()


def test_token_lists_give_the_captions_of_each_image_back() -> None:
    groups = [[torch.tensor([5, 6, 2]), torch.tensor([2])], [torch.tensor([70_000, 2])]]
    lists = TokenLists()
    for group in groups:
        lists.append(group)
    for got, expected in zip(lists, groups, strict=True):
        for mine, its in zip(got, expected, strict=True):
            assert torch.equal(mine, its)
