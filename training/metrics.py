"""What captions are worth: agreement with references, fit to the image, and signs of degeneration.

docs/evaluation.md says how to read each figure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from torch import Tensor

from models.clip import ClipEncoder
from models.similarity import clip_score, clip_similarity
from training.retrieval import RANKS, caption_to_image_ranks

TEXT_BATCH = 256
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|m|d))\b")
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|m|d)\b|\w+(?:[-/.']\w+)*")


@dataclass(frozen=True)
class Scores:
    """Figures of a set of captions.

    Args:
        per_caption: values of each caption; the mean of each is the figure of the same name.
        of_set: figures that are no mean over captions, such as BLEU.
    """

    per_caption: Mapping[str, Float[np.ndarray, "captions"]] = field(default_factory=dict)
    of_set: Mapping[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.per_caption.items()} | dict(self.of_set)

    def __or__(self, other: "Scores") -> "Scores":
        return Scores({**self.per_caption, **other.per_caption}, {**self.of_set, **other.of_set})

    def prefixed(self, prefix: str) -> "Scores":
        """The same under names that tell another scorer's figures apart."""
        return Scores(
            {prefix + name: values for name, values in self.per_caption.items()},
            {prefix + name: value for name, value in self.of_set.items()},
        )


def words(caption: str) -> list[str]:
    """Lower-case words without punctuation.

    As the Penn Treebank tokenizer of coco-caption in what captions contain: "isn't" is "is n't", "dog's" is
    "dog 's", "t-shirt" stays whole, punctuation is dropped. It needs no Java.
    """
    return _WORD.findall(_CLITIC.sub(r" \1", caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def reference_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L in percent, by pycocoevalcap.

    CIDEr-D takes its document frequencies from the references given here: figures on sets of different size
    don't compare.
    """
    written = {row: [" ".join(words(caption))] for row, caption in enumerate(captions)}
    expected = {row: [" ".join(words(text)) for text in texts] for row, texts in enumerate(references)}
    _, cider = Cider().compute_score(expected, written)
    bleu, _ = Bleu(4).compute_score(expected, written, verbose=0)
    _, rouge = Rouge().compute_score(expected, written)
    return Scores(
        {"cider_d": 100.0 * np.asarray(cider), "rouge_l": 100.0 * np.asarray(rouge)},
        {f"bleu_{n}": 100.0 * float(score) for n, score in enumerate(bleu, start=1)},
    )


def language_scores(captions: Sequence[str]) -> Scores:
    """Length in words, spread, share of distinct captions, vocabulary used, repetition.

    Repetition is the share of a caption's word pairs that it has already had, averaged over captions.
    """
    tokens = [words(caption) for caption in captions]
    lengths = np.array([float(len(caption)) for caption in tokens])
    distinct = len({tuple(caption) for caption in tokens})
    return Scores(
        {"length_mean": lengths, "repetition": 100.0 * np.array([_repeated_pairs(each) for each in tokens])},
        {
            "length_std": float(lengths.std()),
            "distinct_captions": 100.0 * distinct / len(tokens),
            "vocabulary": float(len({word for caption in tokens for word in caption})),
        },
    )


@torch.no_grad()
def encode_texts(scorer: ClipEncoder, texts: Sequence[str]) -> Float[Tensor, "texts embed"]:
    """Unit vectors of many texts, in batches of those that begin alike: a beginning is read once."""
    order = sorted(range(len(texts)), key=texts.__getitem__)
    batches = [order[at : at + TEXT_BATCH] for at in range(0, len(order), TEXT_BATCH)]
    encoded = torch.cat([scorer.encode_captions([texts[row] for row in batch]) for batch in batches])
    return encoded[torch.tensor(order).argsort().to(encoded.device)]


def encode_references(
    scorer: ClipEncoder, references: Sequence[Sequence[str]], *, prompt: str = ""
) -> tuple[Float[Tensor, "references embed"], ...]:
    """Unit vectors of each image's references; empty where an image has none."""
    if not all(references):
        return ()
    encoded = encode_texts(scorer, [prompt + text for texts in references for text in texts])
    return torch.split(encoded, [len(texts) for texts in references])


@torch.no_grad()
def clip_scores(
    captions: Sequence[str],
    *,
    image_embeddings: Float[Tensor, "images embed"],
    reference_embeddings: Sequence[Float[Tensor, "references embed"]] = (),
    scorer: ClipEncoder,
    prompt: str = "",
) -> Scores:
    """CLIP similarity, CLIPScore, RefCLIPScore (arXiv 2104.08718) and caption -> image recall in percent.

    RefCLIPScore is the harmonic mean of CLIPScore and the best cosine to a reference. As in the paper's code,
    the factor 2.5 is on the image term alone, so a caption equal to a reference scores at most 10/7.

    Args:
        reference_embeddings: of each image, by the same scorer and prompt; empty leaves RefCLIPScore out.
        prompt: put before each text; "A photo depicts " in the paper, nothing for a CLIP trained without it.
    """
    written = encode_texts(scorer, [prompt + caption for caption in captions])
    image_embeddings = image_embeddings.to(written.device)
    similarity = clip_similarity(image_embeddings, written)
    score = clip_score(similarity)
    values = {"clip_similarity": similarity, "clip_score": score}
    if reference_embeddings:
        pairs = zip(reference_embeddings, written, strict=True)
        nearest = torch.stack([(own @ row).max() for own, row in pairs]).clamp(min=0)
        values["ref_clip_score"] = 2 * score * nearest / (score + nearest).clamp(min=1e-8)
    own_image = torch.arange(len(written), device=written.device)
    ranks = caption_to_image_ranks(image_embeddings, written, own_image)
    values |= {f"r@{k}": 100.0 * (ranks <= k).float() for k in RANKS}
    return Scores({name: value.double().cpu().numpy() for name, value in values.items()})


def _repeated_pairs(tokens: Sequence[str]) -> float:
    pairs = list(pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
