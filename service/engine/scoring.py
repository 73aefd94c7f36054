"""CLIP's judgement of finished captions, the texts of many images in one batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.clip import ClipEncoder
from models.generation import Candidate
from models.similarity import clip_score, clip_similarities, clip_similarity
from models.tokenizer import CaptionTokenizer
from service.engine.options import CaptionOptions
from service.engine.results import ScoredCaption, TextScore
from service.engine.text import finished_text
from service.engine.work import Texts


def score_images(
    candidates: Sequence[Sequence[Candidate]],
    embeddings: Sequence[Float[Tensor, "embed"]],
    options: Sequence[CaptionOptions],
    *,
    clip: ClipEncoder,
    tokenizer: CaptionTokenizer,
) -> list[tuple[ScoredCaption, ...]]:
    """For each image its captions with their scores, ranked and cut to the number asked for."""
    texts = [
        [finished_text(tokenizer.decode(one.token_ids), asked) for one in several]
        for several, asked in zip(candidates, options, strict=True)
    ]
    flat = [text for several in texts for text in several]
    images = torch.stack([one for one, several in zip(embeddings, texts, strict=True) for _ in several])
    similarities = clip_similarity(images.float(), clip.encode_captions(flat).float())
    scores = iter(zip(similarities.tolist(), clip_score(similarities).tolist(), strict=True))
    return [
        rank([_scored(one, text, *next(scores)) for one, text in zip(*pair, strict=True)], asked)
        for *pair, asked in zip(candidates, texts, options, strict=True)
    ]


def score_texts(
    embedding: Float[Tensor, "embed"], given: Texts, *, clip: ClipEncoder
) -> tuple[TextScore, ...]:
    """How well each of the given texts fits an image; encoded once for all images that share them."""
    if given.embeddings is None:
        given.embeddings = clip.encode_captions(given.texts)
    similarities = clip_similarities(embedding.unsqueeze(0), given.embeddings)[0]
    numbers = zip(given.texts, similarities.tolist(), clip_score(similarities).tolist(), strict=True)
    return tuple(TextScore(text, similarity, score) for text, similarity, score in numbers)


def rank(captions: Sequence[ScoredCaption], options: CaptionOptions) -> tuple[ScoredCaption, ...]:
    """The best of one image's captions, best first.

    By likelihood a beam keeps the order of the search, which weighs length as the options ask.
    """
    if options.rank_by == "clip":
        captions = sorted(captions, key=lambda one: -one.clip_similarity)
    elif options.strategy == "sample":
        captions = sorted(captions, key=lambda one: -one.log_likelihood)
    return tuple(captions[: options.num_captions])


def _scored(candidate: Candidate, text: str, similarity: float, score: float) -> ScoredCaption:
    return ScoredCaption(
        text=text,
        token_ids=candidate.token_ids,
        clip_similarity=similarity,
        clip_score=score,
        log_likelihood=candidate.log_likelihood,
        num_tokens=len(candidate.token_ids),
        finish_reason=candidate.finish_reason,
    )
