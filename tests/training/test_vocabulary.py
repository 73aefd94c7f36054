"""Vocabulary learning against the plain algorithm, and its file against open_clip's reader."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from open_clip.tokenizer import SimpleTokenizer

from training.vocabulary import count_words, learn_merges, write_merges

CAPTIONS = [
    "A brown dog runs through the snow .",
    "Two dogs run on green grass",
    "A dog's ball isn't in the water!",
    "The man in the red shirt throws a ball to the dog",
    "A giraffe stands beside a café",
] * 3


def test_merges_equal_those_of_the_plain_algorithm() -> None:
    assert learn_merges(CAPTIONS, num_merges=60) == _plain_merges(CAPTIONS, 60)


def test_open_clip_reads_the_file_and_round_trips_captions(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path, num_merges=400)
    for caption in CAPTIONS:
        expected = " ".join(tokenizer.pat.findall(caption.lower()))
        assert tokenizer.decode(tokenizer.encode(caption)).strip() == expected


def test_frequent_words_become_one_token(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path, num_merges=400)
    assert [len(tokenizer.encode(word)) for word in ("dog", "the", "giraffe", "ball")] == [1, 1, 1, 1]


def test_special_ids_follow_the_merges_without_a_gap(tmp_path: Path) -> None:
    merges = learn_merges(CAPTIONS, num_merges=25)
    tokenizer = _tokenizer(tmp_path, num_merges=25)
    assert tokenizer.vocab_size == 512 + len(merges) + 2
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (512 + 25, 512 + 26)


def test_same_captions_give_the_same_bytes(tmp_path: Path) -> None:
    write_merges(learn_merges(CAPTIONS, num_merges=50), tmp_path / "a.gz")
    write_merges(learn_merges(reversed(CAPTIONS), num_merges=50), tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_learning_stops_when_no_pair_is_frequent_enough() -> None:
    assert learn_merges(["abc", "xyz"], num_merges=10, min_count=2) == []


def test_more_merges_than_the_format_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 0 to 48894"):
        learn_merges(CAPTIONS, num_merges=50_000)


def _tokenizer(folder: Path, *, num_merges: int) -> SimpleTokenizer:
    write_merges(learn_merges(CAPTIONS, num_merges=num_merges), folder / "bpe.txt.gz")
    return SimpleTokenizer(bpe_path=str(folder / "bpe.txt.gz"))


def _plain_merges(captions: list[str], num_merges: int) -> list[tuple[str, str]]:
    """Counts all pairs anew for every merge."""
    words = {(*word[:-1], word[-1] + "</w>"): count for word, count in count_words(captions).items()}
    merges = []
    for _ in range(num_merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        words = {_merge(word, best): count for word, count in words.items()}
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    symbols = list(word)
    while symbols:
        if tuple(symbols[:2]) == pair:
            merged.append(symbols.pop(0) + symbols.pop(0))
        else:
            merged.append(symbols.pop(0))
    return tuple(merged)
