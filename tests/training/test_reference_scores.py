"""CIDEr-D, BLEU and ROUGE-L against plain readings of their papers, and the words against the Treebank's."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from training.metrics import reference_scores, words

Gram = tuple[str, ...]
References = Sequence[Sequence[str]]

TOLERANCE = 1e-3

CAPTIONS = [
    "a brown dog runs in the snow",
    "two children play on the grass",
    "a man rides a red bike",
    "a man in a red shirt is climbing a rock",
    "a group of people are sitting on a bench in a park",
    "a black and white dog is jumping over a bar",
    "a dog a dog a dog a dog",
    "",
]
REFERENCES = [
    [
        "A brown dog is running in the snow .",
        "The dog runs through deep snow",
        "A dog's paws are in the snow .",
    ],
    ["Two kids playing on grass .", "Two children play in a park"],
    ["A man on a bike", "A cyclist in red rides down a hill .", "a man rides a red bike"],
    [
        "A climber in red isn't holding a rope .",
        "A man climbs a steep rock face",
        "the man in a red shirt climbs",
    ],
    [
        "People sit on benches in the park .",
        "A group of people sitting on a bench",
        "Five people , one bench",
    ],
    ["A black-and-white dog leaps over a bar .", "the dog is jumping over a bar in the grass"],
    ["A dog and another dog run .", "Two dogs on the beach"],
    ["A surfer rides a big wave .", "A man surfs"],
]


def test_every_figure_agrees_with_its_plain_formula() -> None:
    _assert_agreement(CAPTIONS, REFERENCES)


def test_cider_d_of_each_caption_agrees_with_the_plain_formula() -> None:
    values = reference_scores(CAPTIONS, REFERENCES).per_caption["cider_d"]
    assert values == pytest.approx(
        [100 * value for value in plain_cider_d(CAPTIONS, REFERENCES)], abs=TOLERANCE
    )
    assert values[2] > values[1] > values[7] == 0


@pytest.mark.shared_data
def test_figures_agree_with_the_plain_formulas_on_real_captions(shared_data: Path) -> None:
    """Every other photo has a caption of its own, the rest one of the photo before."""
    texts = _real_captions(shared_data, photos=200)
    captions = [texts[row - row % 2][0] for row in range(len(texts))]
    _assert_agreement(captions, [own[1:] for own in texts])


def test_cider_d_by_hand() -> None:
    """Every n-gram occurs in one photo of two, so all weigh log 2 and the weights cancel.

    The first caption is its reference: cosine 1 in all four orders. The second shares two of three words, one
    of two pairs and nothing longer; the lengths are equal.
    """
    scores = reference_scores(["a dog runs fast", "the cat sat"], [["a dog runs fast"], ["the cat slept"]])
    assert scores.per_caption["cider_d"] == pytest.approx([1000, 1000 * (2 / 3 + 1 / 2) / 4], rel=1e-6)


def test_cider_d_falls_by_a_gaussian_of_the_length() -> None:
    captions, references = ["red ball red ball red ball", "x"], [["red ball now"], ["y"]]
    scores = reference_scores(captions, references)
    whatever_length = plain_cider_d(captions, references, sigma=1e6)[0]
    assert whatever_length > 1
    expected = 100 * whatever_length * math.exp(-(3**2) / (2 * 6**2))
    assert scores.per_caption["cider_d"][0] == pytest.approx(expected, rel=1e-6)


def test_bleu_of_one_short_caption_by_hand() -> None:
    figures = reference_scores(["the cat sat"], [["the cat sat down"]]).figures
    brevity = math.exp(1 - 4 / 3)
    assert figures["bleu_1"] == pytest.approx(100 * brevity, rel=1e-4)
    assert figures["bleu_2"] == pytest.approx(100 * brevity, rel=1e-4)


def test_bleu_counts_a_repeated_word_as_often_as_a_reference_has_it() -> None:
    """The example of Papineni et al. 2002: "the" seven times matches twice."""
    references = [["the cat is on the mat", "there is a cat on the mat"]]
    figures = reference_scores(["the the the the the the the"], references).figures
    assert figures["bleu_1"] == pytest.approx(100 * 2 / 7, rel=1e-4)


def test_rouge_l_by_hand() -> None:
    figures = reference_scores(["the cat sat"], [["the dog sat"]]).figures
    assert figures["rouge_l"] == pytest.approx(100 * 2 / 3, rel=1e-6)


def test_perfect_captions_score_highest() -> None:
    perfect = reference_scores([texts[0] for texts in REFERENCES], REFERENCES).figures
    assert perfect["bleu_4"] == pytest.approx(100, rel=1e-4)
    assert perfect["rouge_l"] == pytest.approx(100)
    assert perfect["cider_d"] > reference_scores(CAPTIONS, REFERENCES).figures["cider_d"]


@pytest.mark.shared_data
@pytest.mark.skipif(shutil.which("java") is None, reason="the Treebank tokenizer needs Java")
def test_words_are_those_of_the_treebank_tokenizer_on_real_captions(shared_data: Path) -> None:
    captions = [caption for texts in _real_captions(shared_data, photos=100) for caption in texts]
    assert len(captions) == 500
    numbered = {row: [{"caption": caption}] for row, caption in enumerate(captions)}
    expected = PTBTokenizer().tokenize(numbered)
    different = [
        (expected[row][0], caption)
        for row, caption in enumerate(captions)
        if expected[row][0].split() != words(caption)
    ]
    share = 1 - len(different) / len(captions)
    print(f"{share:.1%} of {len(captions)} captions have the same words", *different, sep="\n")
    assert share >= 0.99


def plain_cider_d(captions: Sequence[str], references: References, *, sigma: float = 6.0) -> list[float]:
    """CIDEr-D of each caption as its paper states it (arXiv 1411.5726, section 5), 0..10."""
    totals = [0.0] * len(captions)
    for n in range(1, 5):
        documents = [{gram for text in texts for gram in _ngrams(text, n)} for texts in references]
        frequency = Counter(gram for document in documents for gram in document)
        for row, (caption, texts) in enumerate(zip(captions, references, strict=True)):
            written = _tf_idf(_ngrams(caption, n), frequency, len(references))
            for text in texts:
                expected = _tf_idf(_ngrams(text, n), frequency, len(references))
                dot = sum(
                    min(written[gram], expected[gram]) * expected[gram] for gram in written.keys() & expected
                )
                norm = math.hypot(*written.values()) * math.hypot(*expected.values())
                difference = len(words(caption)) - len(words(text))
                penalty = math.exp(-(difference**2) / (2 * sigma**2))
                totals[row] += 10 * penalty * (dot / norm if norm else 0.0) / len(texts) / 4
    return totals


def plain_bleu(captions: Sequence[str], references: References, *, order: int) -> float:
    """BLEU of a set (Papineni et al. 2002, https://aclanthology.org/P02-1040), 0..1, nearest length."""
    precisions = []
    for n in range(1, order + 1):
        matched = written = 0
        for caption, texts in zip(captions, references, strict=True):
            counts = _ngrams(caption, n)
            allowed: Counter[Gram] = Counter()
            for text in texts:
                allowed |= _ngrams(text, n)
            matched += (counts & allowed).total()
            written += counts.total()
        precisions.append(matched / written)
    length = sum(len(words(caption)) for caption in captions)
    nearest = sum(
        min((len(words(text)) for text in texts), key=lambda size: (abs(size - len(words(caption))), size))
        for caption, texts in zip(captions, references, strict=True)
    )
    brevity = min(1.0, math.exp(1 - nearest / length))
    return brevity * math.exp(sum(map(math.log, precisions)) / order)


def plain_rouge_l(captions: Sequence[str], references: References, *, beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013), best precision and recall of all references."""
    total = 0.0
    for caption, texts in zip(captions, references, strict=True):
        common = [_longest_common(words(caption), words(text)) for text in texts]
        precision = max(common) / max(1, len(words(caption)))
        recall = max(same / len(words(text)) for same, text in zip(common, texts, strict=True))
        if precision:
            total += (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return total / len(captions)


def _assert_agreement(captions: Sequence[str], references: References) -> None:
    figures = reference_scores(captions, references).figures
    cider = plain_cider_d(captions, references)
    plain = {
        "cider_d": sum(cider) / len(cider),
        "rouge_l": plain_rouge_l(captions, references),
        **{f"bleu_{order}": plain_bleu(captions, references, order=order) for order in range(1, 5)},
    }
    assert all(value > 0 for value in plain.values())
    assert figures == pytest.approx({name: 100 * value for name, value in plain.items()}, abs=TOLERANCE)


def _tf_idf(counts: Counter[Gram], frequency: Counter[Gram], documents: int) -> dict[Gram, float]:
    return {gram: count * math.log(documents / max(1, frequency[gram])) for gram, count in counts.items()}


def _ngrams(text: str, n: int) -> Counter[Gram]:
    tokens = words(text)
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    lengths: dict[tuple[int, int], int] = Counter()
    for i, j in product(range(len(left)), range(len(right))):
        same = left[i] == right[j]
        lengths[i, j] = lengths[i - 1, j - 1] + 1 if same else max(lengths[i - 1, j], lengths[i, j - 1])
    return lengths[len(left) - 1, len(right) - 1] if left and right else 0


def _real_captions(shared_data: Path, *, photos: int) -> list[list[str]]:
    with (shared_data / "flickr8k" / "val" / "metadata.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["captions"] for line, _ in zip(lines, range(photos), strict=False)]
