"""The figures of an evaluation: what each is called, how it is written, and which way is better."""

from dataclasses import dataclass, replace
from typing import Literal

SECOND = "second_"
"""Starts the names of the figures that the second scorer gives."""

MINUS = "\N{MINUS SIGN}"

Group = Literal["references", "scorer", "second scorer", "language"]


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Args:
        better: which way is better; None where that depends.
        about: one line for somebody who meets it the first time.
    """

    name: str
    title: str
    group: Group
    decimals: int
    better: Literal["higher", "lower"] | None
    about: str

    @property
    def full_title(self) -> str:
        """With the second scorer named where it is the judge."""
        return f"{self.title} by the second scorer" if self.group == "second scorer" else self.title

    def shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}".replace("-", MINUS)

    def shown_change(self, value: float) -> str:
        """With its sign, and a zero without one."""
        text = f"{value:+.{self.decimals}f}"
        return text.replace("-", MINUS) if float(text) else self.shown(0.0)


_CATALOGUE = (
    Figure("cider_d", "CIDEr-D", "references", 1, "higher", "n-grams shared with the references, rare ones count more; can pass 100"),
    Figure("bleu_1", "BLEU-1", "references", 1, "higher", "words that occur in a reference, in %"),
    Figure("bleu_2", "BLEU-2", "references", 1, "higher", "the same up to word pairs"),
    Figure("bleu_3", "BLEU-3", "references", 1, "higher", "the same up to three words"),
    Figure("bleu_4", "BLEU-4", "references", 1, "higher", "the same up to four words"),
    Figure("rouge_l", "ROUGE-L", "references", 1, "higher", "longest common word sequence with the nearest reference, in %"),
    Figure("clip_similarity", "CLIP similarity", "scorer", 3, "higher", "cosine of caption and photo, -1 to 1"),
    Figure("clip_score", "CLIPScore", "scorer", 3, "higher", "2.5 x the cosine, never below 0"),
    Figure("ref_clip_score", "RefCLIPScore", "scorer", 3, "higher", "harmonic mean of CLIPScore and the cosine to the nearest reference"),
    Figure("r@1", "R@1", "scorer", 1, "higher", "captions whose own photo is the nearest of all, in %"),
    Figure("r@5", "R@5", "scorer", 1, "higher", "captions whose own photo is among the nearest 5, in %"),
    Figure("r@10", "R@10", "scorer", 1, "higher", "captions whose own photo is among the nearest 10, in %"),
    Figure("length_mean", "Length", "language", 2, None, "words in a caption, mean"),
    Figure("length_std", "Length spread", "language", 2, None, "words in a caption, standard deviation"),
    Figure("repetition", "Repetition", "language", 2, "lower", "word pairs that a caption has already had, in %"),
    Figure("distinct_captions", "Distinct captions", "language", 1, "higher", "different captions among all, in %"),
    Figure("vocabulary", "Vocabulary", "language", 0, "higher", "different words in all captions"),
)  # fmt: skip
# ruff: noqa: E501 - a figure is one line


_SECOND_OPINION = tuple(
    replace(figure, name=SECOND + figure.name, group="second scorer")
    for figure in _CATALOGUE
    if figure.group == "scorer"
)
_ORDER: tuple[Group, ...] = ("references", "scorer", "second scorer", "language")

FIGURES = {
    figure.name: figure
    for group in _ORDER
    for figure in (*_CATALOGUE, *_SECOND_OPINION)
    if figure.group == group
}
"""By name, in the order of tables."""

OWN_SCORER_FIGURES = frozenset(figure.name for figure in _CATALOGUE if figure.group == "scorer")
"""Those that depend on the checkpoint's own CLIP."""
