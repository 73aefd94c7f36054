"""CIDEr-D as a reward: pycocoevalcap is the oracle."""

import pytest
import torch
from pycocoevalcap.cider.cider import Cider

from training.cider import END, CiderD, CiderRewards, cider_of, ended_words

REFERENCES = [
    ["a red dog runs on the grass", "the dog runs", "one red dog outside"],
    ["a blue bird sits on a branch", "the bird sits on a tree branch"],
    ["two children play ball on the grass", "children play with a ball", "kids on the grass"],
    ["a red car on a street"],
]
WRITTEN = [
    "a red dog runs on the street",
    "a bird sits sits sits on a branch on a branch",
    "a ball",
    "people who walk along a long and empty beach in the evening sun",
]


def test_scores_equal_pycocoevalcap() -> None:
    cider = CiderD([[text.split() for text in group] for group in REFERENCES])
    ours = [cider.score(text.split(), photo) for photo, text in enumerate(WRITTEN)]
    _, theirs = Cider().compute_score(
        dict(enumerate(REFERENCES)), {n: [text] for n, text in enumerate(WRITTEN)}
    )
    assert ours == pytest.approx(list(theirs), abs=1e-9)
    assert ours[0] > 1 > ours[3] == 0


class Letters:
    """A tokenizer of single words, enough to see what the reward does with ends and padding."""

    words = ("a", "red", "dog", "runs", "the", "bird")
    vocab_size, eos_id, pad_id = 7, 6, 7
    never_generated: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        return [self.words.index(word) for word in text.split()]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(self.words[one] for one in token_ids)

    def pieces(self) -> list[str]:
        return [*self.words, ""]


def test_caption_cut_before_its_end_earns_less() -> None:
    tokenizer = Letters()
    groups = [
        [torch.tensor([*tokenizer.encode(text), 6]) for text in texts]
        for texts in (["a red dog runs"], ["the bird runs"], ["the bird"])
    ]
    rewards = CiderRewards(cider_of(groups, tokenizer), tokenizer, photos=[0, 1])  # type: ignore[arg-type]
    token_ids = torch.tensor([[0, 1, 2, 3, 6], [0, 1, 2, 3, 7], [4, 5, 3, 6, 7], [0, 1, 2, 3, 6]])
    earned = rewards(token_ids)["cider"]
    assert earned[0] == pytest.approx(10.0, abs=1e-4)
    assert 0 < earned[1] < 0.9 * earned[0]
    assert earned[2] == pytest.approx(10.0, abs=1e-4)
    assert earned[3] < 1


def test_words_end_where_the_caption_does() -> None:
    assert ended_words([0, 1, 6, 2], Letters()) == ["a", "red", END]  # type: ignore[arg-type]
    assert ended_words([0, 1, 7, 7], Letters()) == ["a", "red"]  # type: ignore[arg-type]
