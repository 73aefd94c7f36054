"""Finished texts, and what of an unfinished one is certain."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from models.tokenizer import ClipVocabulary
from service.engine.options import CaptionOptions
from service.engine.text import certain_text, finished_text, first_sentence

TOKENS = ClipVocabulary(SimpleTokenizer())
PIECES = [
    "a",
    "dog",
    "t",
    "-",
    "shirt",
    "don",
    "'t",
    "'",
    "s",
    "st",
    ".",
    ",",
    "(",
    ")",
    "1",
    "/",
    "big",
    "!",
    "the",
]
PIECE_IDS = [TOKENS.encode(piece) for piece in PIECES]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a dog runs", CaptionOptions(sentence_case=True), "A dog runs"),
        ("a dog runs", CaptionOptions(final_stop="add"), "a dog runs."),
        ("a dog runs,", CaptionOptions(final_stop="add"), "a dog runs."),
        ("is it a dog?", CaptionOptions(final_stop="add"), "is it a dog?"),
        ("a dog runs.", CaptionOptions(final_stop="remove"), "a dog runs"),
        (".", CaptionOptions(final_stop="remove"), "."),
        ("a dog runs", CaptionOptions(final_stop="add", max_chars=10), "a dog."),
        ("a dog runs.", CaptionOptions(final_stop="add", max_chars=11), "a dog runs."),
        ("a dog runs", CaptionOptions(final_stop="add", max_chars=11), "a dog runs."),
        ("a dog. a cat.", CaptionOptions(one_sentence=True), "a dog."),
        ("a dog\na cat", CaptionOptions(one_sentence=True, final_stop="add"), "a dog."),
        ("", CaptionOptions(final_stop="add", sentence_case=True, one_sentence=True), ""),
    ],
)
def test_a_caption_is_finished_as_asked(text: str, options: CaptionOptions, expected: str) -> None:
    assert finished_text(text, options) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a st. bernard runs. a cat", "a st. bernard runs."),
        ("mr. bean! and a dog", "mr. bean!"),
        ("version 1.5 of it", "version 1.5 of it"),
    ],
)
def test_a_sentence_does_not_end_in_an_abbreviation_or_a_number(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


@settings(deadline=None, max_examples=400)
@example(indices=[10, 7, 2], max_chars=None, final_stop="keep", flags=(False, False))
@given(
    indices=st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=14),
    max_chars=st.none() | st.integers(1, 40),
    final_stop=st.sampled_from(["keep", "add", "remove"]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_what_is_certain_begins_the_finished_caption(
    indices: list[int], max_chars: int | None, final_stop: str, flags: tuple[bool, bool]
) -> None:
    one_sentence, sentence_case = flags
    options = CaptionOptions(
        max_chars=max_chars,
        final_stop=final_stop,  # type: ignore[arg-type]
        one_sentence=one_sentence,
        sentence_case=sentence_case,
    )
    ids = [id for index in indices for id in PIECE_IDS[index]]
    finished = finished_text(TOKENS.decode(ids), options)
    certain = ""
    for count in range(len(ids) + 1):
        longer = certain_text(TOKENS.decode(ids[:count]), options)
        assert finished.startswith(longer)
        assert longer.startswith(certain) or len(longer) < len(certain)
        certain = max(certain, longer, key=len)


def test_all_but_the_last_word_is_certain() -> None:
    assert certain_text("A dog runs over", CaptionOptions()) == "A dog runs"
    assert certain_text("A red t -", CaptionOptions()) == "A red"
    assert certain_text(". '", CaptionOptions()) == ""
