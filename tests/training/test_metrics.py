"""Figures of CLIP, retrieval and language against hand-computed values."""

import math

import pytest
import torch

from models.clip import ClipEncoder
from tests.tiny import tiny_clip
from training import retrieval
from training.metrics import Scores, clip_scores, encode_references, encode_texts, language_scores, words
from training.retrieval import caption_to_image_recall


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


def test_language_figures_by_hand() -> None:
    scores = language_scores(["a dog", "A dog.", "a dog and a dog"])
    figures = scores.figures
    assert figures["length_mean"] == 3
    assert figures["length_std"] == pytest.approx(math.sqrt(2))
    assert figures["distinct_captions"] == pytest.approx(100 * 2 / 3)
    assert figures["vocabulary"] == 3
    assert figures["repetition"] == pytest.approx(100 * (1 / 4) / 3)
    assert scores.per_caption["length_mean"].tolist() == [2, 2, 5]
    assert scores.per_caption["repetition"].tolist() == [0, 0, 25]


def test_empty_caption_has_no_repetition() -> None:
    assert language_scores(["", "a dog"]).figures["repetition"] == 0


def test_clip_scores_by_hand(clip: ClipEncoder) -> None:
    captions = ["the red dog", "the cat in the snow"]
    references = [["the dog", "the ball"], ["snow"]]
    written = clip.encode_captions(captions)
    images = torch.nn.functional.normalize(written + 0.3 * torch.randn(2, 16, generator=_generator()), dim=1)
    scores = _clip_scores(clip, captions, references, images)
    figures = scores.figures
    cosines = (images * written).sum(dim=1)
    nearest = torch.stack(
        [(clip.encode_captions(texts) @ row).max() for texts, row in zip(references, written, strict=True)]
    )
    score = 2.5 * cosines.clamp(min=0)
    assert figures["clip_score"] == pytest.approx(score.mean().item(), rel=1e-5)
    assert figures["clip_similarity"] == pytest.approx(cosines.mean().item(), rel=1e-5)
    harmonic = 2 * score * nearest / (score + nearest)
    assert figures["ref_clip_score"] == pytest.approx(harmonic.mean().item(), rel=1e-5)
    assert scores.per_caption["clip_similarity"] == pytest.approx(cosines.detach().numpy(), rel=1e-5)
    assert scores.per_caption["ref_clip_score"] == pytest.approx(harmonic.detach().numpy(), rel=1e-5)


def test_ref_clip_score_scales_the_image_term_alone(clip: ClipEncoder) -> None:
    """As the code of arXiv 2104.08718: a perfect caption scores the harmonic mean of 2.5 and 1."""
    caption = "the red dog"
    images = clip.encode_captions([caption])
    figures = _clip_scores(clip, [caption], [[caption]], images).figures
    assert figures["ref_clip_score"] == pytest.approx(10 / 7, rel=1e-5)


def test_caption_against_the_image_scores_zero_not_less(clip: ClipEncoder) -> None:
    caption = "the red dog"
    images = -clip.encode_captions([caption])
    figures = _clip_scores(clip, [caption], [["snow"]], images).figures
    assert figures["clip_similarity"] == pytest.approx(-1, abs=1e-5)
    assert figures["clip_score"] == figures["ref_clip_score"] == 0


def test_prompt_is_read_before_each_text(clip: ClipEncoder) -> None:
    images = clip.encode_captions(["the man on the grass"])
    references = encode_references(clip, [["grass"]], prompt="the man on the ")
    figures = clip_scores(
        ["grass"],
        image_embeddings=images,
        reference_embeddings=references,
        scorer=clip,
        prompt="the man on the ",
    ).figures
    assert figures["clip_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert figures["ref_clip_score"] == pytest.approx(10 / 7, rel=1e-5)


def test_without_references_there_is_no_ref_clip_score(clip: ClipEncoder) -> None:
    scores = _clip_scores(clip, ["grass", "snow"], [["grass"], []], clip.encode_captions(["grass", "snow"]))
    assert "ref_clip_score" not in scores.figures


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


def test_recall_of_chunks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = torch.randn(2, 23, 8, generator=_generator())
    own = torch.arange(23)
    whole = caption_to_image_recall(images, texts, own)
    assert 0 < whole["r@5"] < 100
    monkeypatch.setattr(retrieval, "CAPTION_CHUNK", 5)
    assert caption_to_image_recall(images, texts, own) == whole


def _clip_scores(
    clip: ClipEncoder, captions: list[str], references: list[list[str]], images: torch.Tensor
) -> Scores:
    return clip_scores(
        captions,
        image_embeddings=images,
        reference_embeddings=encode_references(clip, references),
        scorer=clip,
    )


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
