"""What captions are worth: agreement with references, fit to the image, and signs of degeneration."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from torch import Tensor

from models.clip import ClipEncoder
from models.similarity import clip_score, clip_similarity
from training.retrieval import caption_to_image_recall

TEXT_BATCH = 256
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|m|d))\b")
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|m|d)\b|\w+(?:[-/.']\w+)*")


def words(caption: str) -> list[str]:
    """Lower-case words without punctuation.

    As the Penn Treebank tokenizer of coco-caption in what captions contain: "isn't" is "is n't", "dog's" is
    "dog 's", "t-shirt" stays whole, punctuation is dropped. It needs no Java.
    """
    return _WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def reference_figures(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L in percent, by pycocoevalcap.

    CIDEr-D takes its document frequencies from the references given here: figures on sets of different size
    don't compare.
    """
    written = {row: [" ".join(words(caption))] for row, caption in enumerate(captions)}
    expected = {row: [" ".join(words(text)) for text in texts] for row, texts in enumerate(references)}
    cider, _ = Cider().compute_score(expected, written)
    bleu, _ = Bleu(4).compute_score(expected, written, verbose=0)
    rouge, _ = Rouge().compute_score(expected, written)
    figures = {"cider_d": cider, **{f"bleu_{n + 1}": score for n, score in enumerate(bleu)}, "rouge_l": rouge}
    return {name: 100.0 * float(value) for name, value in figures.items()}


def language_figures(captions: Sequence[str]) -> dict[str, float]:
    """Length in words, spread, share of distinct captions, vocabulary used, repetition.

    Repetition is the share of a caption's word pairs that it has already had, averaged over captions.
    """
    tokens = [words(caption) for caption in captions]
    lengths = torch.tensor([float(len(caption)) for caption in tokens])
    return {
        "length_mean": float(lengths.mean()),
        "length_std": float(lengths.std(correction=0)),
        "distinct_captions": 100.0 * len({tuple(caption) for caption in tokens}) / len(tokens),
        "vocabulary": float(len({word for caption in tokens for word in caption})),
        "repetition": 100.0 * sum(map(_repeated_pairs, tokens)) / len(tokens),
    }


@torch.no_grad()
def encode_texts(scorer: ClipEncoder, texts: Sequence[str]) -> Float[Tensor, "texts embed"]:
    """Unit vectors of many texts, in batches of similar length: a batch costs as much as its longest text."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    batches = [order[at : at + TEXT_BATCH] for at in range(0, len(order), TEXT_BATCH)]
    encoded = torch.cat([scorer.encode_captions([texts[row] for row in batch]) for batch in batches])
    return encoded[torch.tensor(order).argsort().to(encoded.device)]


@dataclass(frozen=True)
class ScoredCaptions:
    """How well captions fit their images under one CLIP.

    Args:
        similarity: cosine of each caption and its image.
        figures: means over all captions; recall in percent.
    """

    similarity: Float[Tensor, "images"]
    figures: dict[str, float]


@torch.no_grad()
def score_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    image_embeddings: Float[Tensor, "images embed"],
    scorer: ClipEncoder,
    prompt: str = "",
) -> ScoredCaptions:
    """CLIPScore, RefCLIPScore (arXiv 2104.08718) and caption -> image recall.

    Args:
        references: of each image; empty lists where there are none, which leaves RefCLIPScore out.
        prompt: put before each text; "A photo depicts " in the paper, nothing for a CLIP trained without it.
    """
    written = encode_texts(scorer, [prompt + caption for caption in captions])
    similarity = clip_similarity(image_embeddings, written)
    score = clip_score(similarity)
    figures = {"clip_similarity": float(similarity.mean()), "clip_score": float(score.mean())}
    if all(references):
        expected = encode_texts(scorer, [prompt + text for texts in references for text in texts])
        parts = torch.split(expected, [len(texts) for texts in references])
        nearest = torch.stack([(part @ row).max() for part, row in zip(parts, written, strict=True)]).clamp(
            min=0
        )
        harmonic = 2 * score * nearest / (score + nearest).clamp(min=1e-8)
        figures["ref_clip_score"] = float(harmonic.mean())
    recall = caption_to_image_recall(
        image_embeddings, written, torch.arange(len(written), device=written.device)
    )
    return ScoredCaptions(similarity, figures | recall)


def _repeated_pairs(tokens: Sequence[str]) -> float:
    pairs = list(pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
