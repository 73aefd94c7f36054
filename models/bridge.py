"""From the decoder's vocabulary to the inputs of CLIP's text tower, with a gradient on the way back."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.clip import ClipEncoder
from models.tokenizer import CaptionTokenizer

SoftCaptions = tuple[Float[Tensor, "captions clip_length clip_width"], Int[Tensor, "captions"]]
"""Inputs of CLIP's text transformer (start, words, end) and the position of each caption's end."""


SoftRows = Callable[[Float[Tensor, "vocab table"]], Float[Tensor, "captions length table"]]
"""Looks a relaxed caption up in a table: zero in value, its gradient that of the relaxation."""


class VocabularyBridge(Protocol):
    """Turns captions in the decoder's ids into what CLIP's text tower reads."""

    def __call__(
        self, token_ids: Int[Tensor, "captions length"], soft_rows: SoftRows | None = None
    ) -> SoftCaptions:
        """Token embeddings for CLIP.

        Args:
            token_ids: words, end-of-text, padding; a caption cut at its limit has no end-of-text.
            soft_rows: the way back for a gradient to what the ids were sampled from.
        """

    def clip_ids(self, captions: Sequence[Int[Tensor, "length"]]) -> Int[Tensor, "captions clip_length"]:
        """Captions (words, end-of-text) as CLIP's text tower reads them: start, words, end, zeros."""


class IdentityBridge:
    """For a decoder that writes CLIP's own ids: value and gradient are exact."""

    def __init__(self, clip: ClipEncoder) -> None:
        self._clip = clip

    def __call__(self, token_ids: Tensor, soft_rows: SoftRows | None = None) -> SoftCaptions:
        table = self._clip.text.token_embedding.weight
        start, end = table[self._clip.tokenizer.sot_token_id], table[self._clip.tokenizer.eot_token_id]
        words = table[
            token_ids.clamp(max=len(table) - 1)
        ]  # padding stands after the end, where any id will do
        if soft_rows is not None:
            words = words + soft_rows(table)
        lengths = _lengths(token_ids, self._clip.tokenizer.eot_token_id)
        edge = words.new_zeros(len(words), 1, words.shape[2])
        embeddings = torch.cat([start.expand_as(edge), words, end.expand_as(edge)], dim=1)
        return embeddings, lengths + 1

    def clip_ids(self, captions: Sequence[Tensor]) -> Tensor:
        start = torch.tensor([self._clip.tokenizer.sot_token_id])
        ids = [torch.cat([start.to(caption), caption]) for caption in captions]
        return pad_sequence(ids, batch_first=True).to(self._clip.text.positional_embedding.device)


class AlignedBridge:
    """For GPT-2: straight-through with a re-tokenised forward pass.

    Value: the ids are decoded, tokenised by CLIP and embedded, so the score is the one that evaluation gives.
    Gradient: each CLIP position hands its gradient to the decoder positions whose characters it overlaps,
    through a fixed table of the mean CLIP embedding of every decoder token's text.
    """

    def __init__(self, clip: ClipEncoder, tokenizer: CaptionTokenizer) -> None:
        self._clip = clip
        self._tokenizer = tokenizer
        self._pieces = tokenizer.pieces()
        self._table: Tensor | None = None

    def __call__(self, token_ids: Tensor, soft_rows: SoftRows | None = None) -> SoftCaptions:
        rows = token_ids.tolist()
        clip_ids = self._clip.tokenize([self._tokenizer.decode(row) for row in rows])
        exact = self._clip.text.token_embedding(clip_ids)
        ends = (clip_ids == self._clip.tokenizer.eot_token_id).int().argmax(dim=1)
        if soft_rows is None:
            return exact, ends
        alignment = torch.zeros(len(rows), clip_ids.shape[1], token_ids.shape[1])
        for caption, (row, ids, end) in enumerate(zip(rows, clip_ids.tolist(), ends.tolist(), strict=True)):
            self._align(alignment[caption], row, ids[:end])
        return exact + alignment.to(exact) @ soft_rows(self._expected_embeddings()), ends

    def clip_ids(self, captions: Sequence[Tensor]) -> Tensor:
        return self._clip.tokenize([self._tokenizer.decode(caption.tolist()) for caption in captions])

    def _align(self, alignment: Tensor, token_ids: Sequence[int], clip_ids: Sequence[int]) -> None:
        """Fills (CLIP position, decoder position) with the share of the former's characters in the latter."""
        eos = self._tokenizer.eos_id
        length = token_ids.index(eos) if eos in token_ids else len(token_ids)
        owners = [position for position in range(length) for _ in self._letters(token_ids[position])]
        start = 0
        for clip_position, clip_id in enumerate(clip_ids[1:], start=1):
            letters = len(self._clip.tokenizer.decode([clip_id]).replace(" ", ""))
            for owner in owners[start : start + letters]:
                alignment[clip_position, owner] += 1.0 / letters
            start += letters
        if length < len(token_ids):
            alignment[len(clip_ids), length] = 1.0

    def _letters(self, token_id: int) -> str:
        return "".join(self._pieces[token_id].split()) if token_id < len(self._pieces) else ""

    def _expected_embeddings(self) -> Float[Tensor, "vocab clip_width"]:
        if self._table is None:
            self._table = self._build_table()
        return self._table

    def _build_table(self) -> Tensor:
        weight = self._clip.text.token_embedding.weight.detach()
        table = torch.zeros(len(self._pieces), weight.shape[1], device=weight.device)
        for token_id, piece in enumerate(self._pieces):
            ids = self._clip.tokenizer.encode(piece)
            if ids:
                table[token_id] = weight[ids].mean(dim=0)
        table[self._tokenizer.eos_id] = weight[self._clip.tokenizer.eot_token_id]
        return table


def _lengths(token_ids: Tensor, eos_id: int) -> Tensor:
    """Words of each caption before its end-of-text; all of them where it has none."""
    is_end = token_ids == eos_id
    whole = torch.full_like(token_ids[:, 0], token_ids.shape[1])
    return torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), whole)
