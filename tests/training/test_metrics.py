"""Figures against hand-computed values and a plain CIDEr-D."""

import math
from collections import Counter

import pytest
import torch

from models.clip import ClipEncoder
from tests.tiny import tiny_clip
from training.metrics import encode_texts, language_figures, reference_figures, score_captions, words
from training.retrieval import caption_to_image_recall, image_to_caption_recall

Gram = tuple[str, ...]

CAPTIONS = ["a brown dog runs in the snow", "two children play on the grass", "a man rides a red bike"]
REFERENCES = [
    ["A brown dog is running in the snow .", "The dog runs through deep snow"],
    ["Two kids playing on grass .", "Two children play in a park"],
    ["A man on a bike", "A cyclist in red rides down a hill .", "a man rides a red bike"],
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man, in a T-shirt.", ["a", "man", "in", "a", "t-shirt"]),
        ("the dog's ball isn't here!", ["the", "dog", "'s", "ball", "is", "n't", "here"]),
        ("They\N{RIGHT SINGLE QUOTATION MARK}re at 3:30 (pm)", ["they", "'re", "at", "3", "30", "pm"]),
        ("...", []),
    ],
)
def test_words_are_those_of_the_treebank_tokenizer_without_punctuation(
    caption: str, expected: list[str]
) -> None:
    assert words(caption) == expected


def test_bleu_of_one_short_caption_by_hand() -> None:
    figures = reference_figures(["the cat sat"], [["the cat sat down"]])
    brevity = math.exp(1 - 4 / 3)
    assert figures["bleu_1"] == pytest.approx(100 * brevity, rel=1e-4)
    assert figures["bleu_2"] == pytest.approx(100 * brevity, rel=1e-4)


def test_rouge_l_by_hand() -> None:
    figures = reference_figures(["the cat sat"], [["the dog sat"]])
    assert figures["rouge_l"] == pytest.approx(100 * 2 / 3, rel=1e-6)


def test_cider_d_agrees_with_the_plain_formula() -> None:
    expected = 100 * _plain_cider_d(CAPTIONS, REFERENCES)
    assert expected > 50
    assert reference_figures(CAPTIONS, REFERENCES)["cider_d"] == pytest.approx(expected, rel=1e-6)


def test_perfect_captions_score_highest() -> None:
    perfect = reference_figures([texts[0] for texts in REFERENCES], REFERENCES)
    assert perfect["bleu_4"] == pytest.approx(100, rel=1e-4)
    assert perfect["cider_d"] > reference_figures(CAPTIONS, REFERENCES)["cider_d"]


def test_language_figures_by_hand() -> None:
    figures = language_figures(["a dog", "A dog.", "a dog and a dog"])
    assert figures["length_mean"] == 3
    assert figures["length_std"] == pytest.approx(math.sqrt(2))
    assert figures["distinct_captions"] == pytest.approx(100 * 2 / 3)
    assert figures["vocabulary"] == 3
    assert figures["repetition"] == pytest.approx(100 * (1 / 4) / 3)


def test_empty_captions_do_not_break_the_figures() -> None:
    assert language_figures(["", "a dog"])["repetition"] == 0
    assert reference_figures(["", "a dog"], [["a cat"], ["a dog"]])["bleu_1"] > 0


def test_clip_scores_by_hand(clip: ClipEncoder) -> None:
    captions = ["the red dog", "the cat in the snow"]
    references = [["the dog", "the ball"], ["snow"]]
    written = clip.encode_captions(captions)
    images = torch.nn.functional.normalize(written + 0.3 * torch.randn(2, 16, generator=_generator()), dim=1)
    figures = score_captions(captions, references, image_embeddings=images, scorer=clip).figures
    cosines = (images * written).sum(dim=1)
    nearest = torch.stack(
        [(clip.encode_captions(texts) @ row).max() for texts, row in zip(references, written, strict=True)]
    )
    score = 2.5 * cosines.clamp(min=0)
    assert figures["clip_score"] == pytest.approx(score.mean().item(), rel=1e-5)
    assert figures["clip_similarity"] == pytest.approx(cosines.mean().item(), rel=1e-5)
    harmonic = 2 * score * nearest / (score + nearest)
    assert figures["ref_clip_score"] == pytest.approx(harmonic.mean().item(), rel=1e-5)


def test_prompt_is_read_before_each_text(clip: ClipEncoder) -> None:
    images = clip.encode_captions(["the man on the grass"])
    figures = score_captions(
        ["grass"], [[]], image_embeddings=images, scorer=clip, prompt="the man on the "
    ).figures
    assert figures["clip_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert "ref_clip_score" not in figures


def test_texts_keep_their_order_when_encoded_by_length(clip: ClipEncoder) -> None:
    texts = ["the man on the grass", "dog", "the cat"] * 100
    torch.testing.assert_close(
        encode_texts(clip, texts)[1], clip.encode_captions(["dog"])[0], atol=1e-5, rtol=1e-5
    )
    assert torch.allclose(encode_texts(clip, texts)[0], clip.encode_captions([texts[0]])[0], atol=1e-5)


def test_recall_by_hand() -> None:
    images = torch.eye(12)
    texts = images.clone()
    texts[0] = images[0] + 2 * images[1]  # second
    texts[1] = images[1] - 1  # still first
    texts[2] = 0  # ties with all: last
    own = torch.arange(12)
    assert caption_to_image_recall(images, texts, own) == pytest.approx(
        {"r@1": 100 * 10 / 12, "r@5": 100 * 11 / 12, "r@10": 100 * 11 / 12}
    )


def test_an_image_counts_when_any_of_its_captions_is_found() -> None:
    images = torch.eye(3)
    texts = torch.stack([images[0], images[2], images[1], images[0], images[2]])
    own = torch.tensor([0, 0, 1, 1, 2])
    recall = image_to_caption_recall(images, texts, own)
    assert recall["r@1"] == pytest.approx(100 * 1 / 3)  # images 0 and 2 tie with a stranger's caption
    assert recall["r@5"] == 100


def _plain_cider_d(captions: list[str], references: list[list[str]], *, sigma: float = 6.0) -> float:
    """CIDEr-D as its paper states it (arXiv 1411.5726, section 5), one n-gram length after the other."""
    total = 0.0
    for n in range(1, 5):
        documents = [{gram for text in texts for gram in _ngrams(text, n)} for texts in references]
        frequency = Counter(gram for document in documents for gram in document)
        for caption, texts in zip(captions, references, strict=True):
            written = _tf_idf(_ngrams(caption, n), frequency, len(references))
            for text in texts:
                expected = _tf_idf(_ngrams(text, n), frequency, len(references))
                dot = sum(
                    min(written[gram], expected[gram]) * expected[gram] for gram in written.keys() & expected
                )
                norm = math.hypot(*written.values()) * math.hypot(*expected.values())
                difference = len(words(caption)) - len(words(text))
                penalty = math.exp(-(difference**2) / (2 * sigma**2))
                total += 10 * penalty * (dot / norm if norm else 0.0) / len(texts)
    return total / 4 / len(captions)


def _tf_idf(counts: Counter[Gram], frequency: Counter[Gram], documents: int) -> dict[Gram, float]:
    return {gram: count * math.log(documents / max(1, frequency[gram])) for gram, count in counts.items()}


def _ngrams(text: str, n: int) -> Counter[Gram]:
    tokens = words(text)
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
