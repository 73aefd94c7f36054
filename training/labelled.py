"""Labelled images as the decoder reads them: CLIP features and token ids."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training.config import Places
from training.config_parts import DataConfig
from training.data import CaptionedImages, Problems, sample_rows
from training.features import FeatureStore, cached_features
from training.lazy import Chosen, LazySequence
from training.linear_cross_entropy import linear_cross_entropy
from training.sources import read_captioned_sources

CAPTIONS_AT_ONCE = 40
"""A step of 64 photos with 5 captions each: 0.98 s; 64 at once 1.11, all 320 at once 1.48 (bf16, 2 cores)."""


@dataclass(frozen=True)
class CaptionPairs:
    """Args:
    features: of each image.
    token_ids: of each image's captions, end-of-text included.
    """

    features: FeatureStore
    token_ids: Sequence[Sequence[Tensor]]

    def __len__(self) -> int:
        return len(self.token_ids)

    def draw(self, rows: np.ndarray, *, count: int, generator: torch.Generator) -> list[Tensor]:
        """`count` captions of each image, next to each other."""
        drawn = [draw_captions(self.token_ids[row], count, generator) for row in rows]
        return [caption for captions in drawn for caption in captions]


class TokenLists(LazySequence[list[Tensor]]):
    """Token ids of each image's captions: 4 bytes a token, made into tensors when they are asked for."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._caption_ends, self._image_ends = array("q", [0]), array("q", [0])

    def __len__(self) -> int:
        return len(self._image_ends) - 1

    def append(self, captions: Sequence[Tensor]) -> None:
        for caption in captions:
            self._ids.extend(caption.tolist())
            self._caption_ends.append(len(self._ids))
        self._image_ends.append(len(self._caption_ends) - 1)

    def row(self, index: int) -> list[Tensor]:
        ends = self._caption_ends[self._image_ends[index] : self._image_ends[index + 1] + 1]
        return [torch.tensor(self._ids[first:last], dtype=torch.long) for first, last in pairwise(ends)]


def draw_captions(captions: Sequence[Tensor], count: int, generator: torch.Generator) -> list[Tensor]:
    """`count` captions of one image; all different if there are enough."""
    order = torch.randperm(len(captions), generator=generator).tolist()
    return [captions[order[place % len(order)]] for place in range(count)]


def encode_captions(
    captioner: Captioner, captioned: CaptionedImages, problems: Problems
) -> tuple[Sequence[Sequence[Tensor]], list[int]]:
    """Token ids of each image's captions, and the rows of the images that have any."""
    encoded, rows = TokenLists(), []
    for row, captions in enumerate(captioned.captions):
        sources = [captioned.where(row)] * len(captions)
        token_ids, _ = encode_texts(captioner, captions, sources, problems)
        if token_ids:
            encoded.append(token_ids)
            rows.append(row)
        else:
            problems.add("no captions", captioned.where(row))
    return encoded, rows


def encode_texts(
    captioner: Captioner, texts: Sequence[str], sources: Sequence[str], problems: Problems
) -> tuple[list[Tensor], list[int]]:
    """Token ids with end-of-text of each text that is not too long, and the rows of those.

    A caption of more than `max_tokens` is skipped and named: cut, it would teach the decoder not to end.
    """
    encoded, rows = [], []
    for row, text in enumerate(texts):
        token_ids = captioner.tokenizer.encode(text)
        if len(token_ids) > captioner.config.max_tokens:
            limit = captioner.config.max_tokens
            problems.add("caption too long", f"{sources[row]} {len(token_ids)} of {limit} tokens: {text}")
        else:
            encoded.append(torch.tensor([*token_ids, captioner.tokenizer.eos_id]))
            rows.append(row)
    return encoded, rows


def captions_loss(
    captioner: Captioner, features: ImageFeatures, captions: Sequence[Tensor], *, label_smoothing: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy of a token of captions, those of one image next to each other, as many for each.

    Captions of about the same length are read side by side: most are half as long as the longest of a batch.
    """
    decoder, pad_id, device = captioner.decoder, captioner.tokenizer.pad_id, captioner.device
    read = decoder.read(captioner.prefix(features))
    captions_per_image = len(captions) // len(features)
    order = sorted(range(len(captions)), key=lambda place: len(captions[place]))
    states, targets = [], []
    for first in range(0, len(order), CAPTIONS_AT_ONCE):
        places = order[first : first + CAPTIONS_AT_ONCE]
        token_ids = padded([captions[place] for place in places], pad_id).to(device)
        owners = torch.tensor(places, device=device) // captions_per_image
        is_token = token_ids != pad_id
        states.append(decoder.states_after(read.for_captions(owners), token_ids)[is_token])
        targets.append(token_ids[is_token])
    return linear_cross_entropy(
        torch.cat(states), decoder.output_weight, torch.cat(targets), label_smoothing=label_smoothing
    )


def padded(token_ids: Sequence[Tensor], pad_id: int) -> Int[Tensor, "captions length"]:
    """Captions as one rectangle."""
    return torch.nn.utils.rnn.pad_sequence(list(token_ids), batch_first=True, padding_value=pad_id)


def read_labelled(data: DataConfig, places: Places, problems: Problems) -> CaptionedImages:
    """The labelled images that a configuration uses."""
    labelled = read_captioned_sources(places.sources(data.labelled), problems)
    return labelled.select(sample_rows(len(labelled), count=data.max_labelled, seed=data.split_seed))


def read_pairs(captioner: Captioner, data: DataConfig, places: Places, problems: Problems) -> CaptionPairs:
    """The labelled images of a configuration, ready to train on.

    Raises:
        DataError: none of them can be used.
    """
    labelled = read_labelled(data, places, problems)
    encoded, rows = encode_captions(captioner, labelled, problems)
    images = labelled.select(rows).images
    features, readable = cached_features(
        images,
        captioner.clip,
        views=data.views,
        mapping=captioner.config.mapping,
        cache=places.cache,
        workers=data.workers,
        problems=problems,
    )
    if not readable:
        raise problems.nothing_left("data.labelled")
    return CaptionPairs(features, Chosen(encoded, readable))
