"""What captions call the things that an ImageNet classifier knows."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from training.metrics import words

WORD_FILE = "imagenet_words.tsv"
NO_CLASS = "-"
UNNAMED = 1e-3
"""Prior of a class that captions never name: what it is taken for is not always something else."""


@dataclass(frozen=True)
class Thing:
    """Words that stand for the same classes: "dog", "puppy" and others for all breeds.

    Args:
        classes: indices of the classifier's classes.
    """

    words: tuple[str, ...]
    classes: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.words[0]


@dataclass(frozen=True)
class Lexicon:
    """Args:
    misleading: phrases that hold a word and mean something else ("home plate").
    """

    things: tuple[Thing, ...]
    misleading: tuple[str, ...] = ()

    def named_in(self, caption: str) -> frozenset[int]:
        """Places in `things` of what a caption names, also in plural; of overlapping words the longest."""
        found = self._pattern.findall(" ".join(words(caption)))
        return frozenset(self._thing_of[form] for form in found if form in self._thing_of)

    def confidence(
        self, probabilities: Float[np.ndarray, "photos classes"]
    ) -> Float[np.ndarray, "photos things"]:
        """How sure a classifier is of each thing: the sum over its classes."""
        columns = [probabilities[:, list(thing.classes)].sum(axis=1) for thing in self.things]
        return np.stack(columns, axis=1)

    @cached_property
    def _thing_of(self) -> Mapping[str, int]:
        listed = {word: place for place, thing in enumerate(self.things) for word in thing.words}
        plurals = {form: place for word, place in listed.items() for form in _forms(word)}
        return plurals | listed

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        hidden = [form for phrase in self.misleading for form in _forms(phrase)]
        longest_first = sorted([*self._thing_of, *hidden], key=len, reverse=True)
        return re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest_first))})(?!\S)")


def with_prior(
    probabilities: Float[np.ndarray, "photos classes"],
    lexicon: Lexicon,
    *,
    mentions: Float[np.ndarray, "things"],
    strength: float,
) -> Float[np.ndarray, "photos classes"]:
    """Class probabilities in a world where things are as frequent as captions name them.

    A classifier trained on as many photos of every class takes an animal that it does not know for one of 118
    dogs. Dividing by the old prior and multiplying by the new one is Saerens et al. 2002
    (doi.org/10.1162/089976602753284446).

    Args:
        mentions: share of the captions that name each thing.
        strength: power of the ratio of the priors, 0 (no change) to 1.
    """
    prior = np.zeros(probabilities.shape[1])
    for thing, share in zip(lexicon.things, mentions, strict=True):
        classes = list(thing.classes)
        prior[classes] = np.maximum(prior[classes], share / len(classes))
    weighted = probabilities * ((prior + UNNAMED) * len(prior)) ** strength
    likely: np.ndarray = (weighted / weighted.sum(axis=1, keepdims=True)).astype(probabilities.dtype)
    return likely


def read_imagenet_lexicon() -> Lexicon:
    """The lexicon that comes with the package, for the class indices of torchvision."""
    return parse_lexicon(word_lines())


def word_lines() -> list[str]:
    """The package's file, line by line."""
    return files("training").joinpath(WORD_FILE).read_text(encoding="utf-8").splitlines()


def parse_lexicon(lines: Iterable[str]) -> Lexicon:
    """A lexicon from lines of class index, class name and words, with tabs between; # begins a comment.

    Raises:
        ValueError: a line that is not such, or a class that has two.
    """
    classes_of: dict[str, list[int]] = {}
    misleading: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        index, own = _columns(line, number)
        if index == NO_CLASS:
            misleading += own
        for word in () if index == NO_CLASS else own:
            classes_of.setdefault(word, []).append(int(index))
    return Lexicon(_things(classes_of), tuple(misleading))


def _things(classes_of: Mapping[str, Sequence[int]]) -> tuple[Thing, ...]:
    words_of: dict[tuple[int, ...], list[str]] = {}
    for word, classes in classes_of.items():
        words_of.setdefault(tuple(classes), []).append(word)
    return tuple(Thing(tuple(own), classes) for classes, own in words_of.items())


def _columns(line: str, number: int) -> tuple[str, tuple[str, ...]]:
    columns = line.split("\t")
    if len(columns) != 3 or not (columns[0] == NO_CLASS or columns[0].isdecimal()):
        raise ValueError(f"line {number} is {line!r}; it needs a class index, its name and its words")
    return columns[0], tuple(word.strip() for word in columns[2].split(","))


def _forms(word: str) -> Iterator[str]:
    """Singular and plural."""
    yield word
    if word.endswith("y") and word[-2] not in "aeiou":
        yield f"{word[:-1]}ies"
    elif word.endswith(("s", "x", "ch", "sh", "o")):
        yield f"{word}es"
    yield f"{word}s"
