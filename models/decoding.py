"""In-flight batching: captions of many images side by side, joining and leaving between any two tokens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.beams import FinishedBeams, best_continuations, split_continuations, to_candidates
from models.decode_step import DecodeStep, PlainStep, plain
from models.decoder import CaptionDecoder
from models.generation import Candidate, GenerationOptions, SpecialTokens
from models.next_token import NEVER, draw_tokens, uniform_noise
from models.rows import ImageInFlight, NextLogits, Rows, RowTables, apply_rules, force_tokens
from models.top_scores import highest


class DecodingError(RuntimeError):
    """The model gave no usable numbers for an image."""


@dataclass(frozen=True)
class Decoded:
    """The end of one image's decoding: its captions, or why there are none.

    Args:
        candidates: best first for a beam, in the order of their index for samples.
    """

    ticket: int
    candidates: tuple[Candidate, ...] = ()
    error: DecodingError | None = None


class DecodingBatch:
    """Captions of up to `max_images` images in up to `max_rows` rows; each step adds one token to every row.

    A row is one caption being written: beam search takes num_beams of them, each sample one. Keys and values
    stay where they were written; which beam went on is in the table of ancestors alone.

    Args:
        decoder: in evaluation mode; its device is the batch's.
        max_tokens: longest caption, without the end token.
        prepare: what is made of the batch's step (models/decode_step.py) before it is run again and again.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: CaptionDecoder,
        tokens: SpecialTokens,
        *,
        max_images: int,
        max_rows: int,
        max_tokens: int,
        prepare: Callable[[DecodeStep], DecodeStep] = plain,
    ) -> None:
        if max_tokens > decoder.longest_caption:
            raise ValueError(
                f"max_tokens is {max_tokens}; the decoder writes at most {decoder.longest_caption}"
            )
        self.max_tokens = max_tokens
        self.device = device = decoder.token_embedding.weight.device
        self._decoder = decoder
        self._eos_id = tokens.eos_id
        self._closing_ids = torch.tensor(decoder.config.closing_ids, dtype=torch.long, device=device)
        self._never_generated = torch.tensor(tokens.never_generated, dtype=torch.long, device=device)
        self._cache = decoder.new_cache(images=max_images, rows=max_rows, max_tokens=max_tokens)
        pad_id = decoder.config.vocab_size
        self._tables = RowTables(rows=max_rows, max_tokens=max_tokens, pad_id=pad_id, device=device)
        self._finished = FinishedBeams(images=max_images, max_tokens=max_tokens, device=device)
        self._free_slots = list(range(max_images))
        self._free_rows = list(range(max_rows))
        self._images: dict[int, ImageInFlight] = {}
        self._tickets = count()
        self._ended: list[Decoded] = []
        self._live: Rows | None = None
        self._step = prepare(PlainStep(decoder, self._cache, self._tables))

    @property
    def num_images(self) -> int:
        return len(self._images)

    @property
    def num_rows(self) -> int:
        return sum(len(image.rows) for image in self._images.values())

    def has_room(self, options: Sequence[GenerationOptions]) -> bool:
        """Whether images with these options could be added now."""
        rows = sum(one.num_rows for one in options)
        return len(options) <= len(self._free_slots) and rows <= len(self._free_rows)

    @torch.inference_mode()
    def add(
        self, prefixes: Float[Tensor, "images prefix width"], options: Sequence[GenerationOptions]
    ) -> list[int]:
        """Takes images in and chooses the first token of each; returns their tickets.

        Raises:
            ValueError: no room, or longer captions than max_tokens.
        """
        if (longest := max(one.max_tokens for one in options)) > self.max_tokens:
            raise ValueError(f"max_tokens is {longest}; this batch was made for at most {self.max_tokens}")
        if not self.has_room(options):
            raise ValueError(f"no room for {len(options)} more images; has_room() tells")
        images = [self._join(one) for one in options]
        try:
            self._prefill(images, prefixes)
        except Exception:
            for image in images:
                self.drop(image.ticket)
            raise
        return [image.ticket for image in images]

    @torch.inference_mode()
    def step(self) -> list[Decoded]:
        """Decodes one token of every row; returns the images that ended since the last step."""
        if self._images:
            if self._live is None:
                self._live = self._rows_of(self._images.values())
            live = self._live
            logits = self._step(live.ids, live.slots, span=live.span, groups=live.groups)
            self._choose(live, logits)
        ended, self._ended = self._ended, []
        return ended

    def written(self, ticket: int) -> dict[int, list[int]]:
        """Ids so far of an image's captions that still grow, by index; of a beam its best one, as 0."""
        image = self._images.get(ticket)
        return self._tables.written(image) if image else {}

    def drop(self, ticket: int) -> None:
        """Forgets an image and frees its place at once; one that is not here is no error."""
        self._ended = [one for one in self._ended if one.ticket != ticket]
        if ticket in self._images:
            self._release(self._images[ticket])

    def _rows_of(self, images: Iterable[ImageInFlight]) -> Rows:
        return Rows(images, self.device, prefix_length=self._decoder.prefix_length)

    def _join(self, options: GenerationOptions) -> ImageInFlight:
        rows = [self._free_rows.pop() for _ in range(options.num_rows)]
        image = ImageInFlight(
            next(self._tickets), options, self._free_slots.pop(), rows, list(range(len(rows)))
        )
        self._images[image.ticket] = image
        self._tables.begin(rows, options.prefix_ids)
        self._finished.clear(image.slot)
        self._live = None
        return image

    def _leave(self, image: ImageInFlight, row: int) -> None:
        at = image.rows.index(row)
        del image.rows[at], image.indices[at]
        self._free_rows.append(row)
        self._live = None

    def _release(self, image: ImageInFlight) -> None:
        for row in list(image.rows):
            self._leave(image, row)
        self._free_slots.append(image.slot)
        del self._images[image.ticket]

    def _end(self, image: ImageInFlight, captions: Sequence[Candidate]) -> None:
        if image.ticket in self._images:
            self._ended.append(Decoded(image.ticket, tuple(captions)))
            self._release(image)

    def _prefill(self, images: list[ImageInFlight], prefixes: Float[Tensor, "images prefix width"]) -> None:
        slots = torch.tensor([image.slot for image in images], device=self.device)
        logits = self._decoder.prefill(prefixes, self._cache, slots)
        rows = self._rows_of(images)
        places = {image.ticket: at for at, image in enumerate(images)}
        self._choose(rows, logits[[places[image.ticket] for image in rows.owners]])

    def _choose(self, rows: Rows, logits: Float[Tensor, "rows vocab"]) -> None:
        """Gives every row its next token and ends what has come to its end."""
        ruled = apply_rules(
            logits,
            rows.options,
            history=self._tables.token_ids[rows.ids, : rows.span],
            lengths=self._tables.lengths[rows.ids],
            eos_id=self._eos_id,
            closing_ids=self._closing_ids,
            never_generated=self._never_generated,
        )
        if rows.has_forced:
            force_tokens(ruled.scores, self._tables.forced_next(rows.ids))
        self._fail_broken(rows, ruled)
        if rows.num_singles:
            self._extend_singles(rows, ruled)
        if rows.beam_images:
            self._extend_beams(rows, ruled)
        for image in rows.images:
            image.length += 1

    def _fail_broken(self, rows: Rows, ruled: NextLogits) -> None:
        broken = (~ruled.log_norm.isfinite()).nonzero().squeeze(1).tolist()
        for ticket in {rows.owners[at].ticket for at in broken}:
            image = self._images[ticket]
            # Attention weighs stale cells with 0, and 0 x NaN is NaN: the rows' next captions would fail too.
            self._cache.tokens[:, image.rows] = 0.0
            error = DecodingError(f"the model's logits are not finite after {image.length} tokens")
            self._ended.append(Decoded(ticket, error=error))
            self._release(image)

    def _extend_singles(self, rows: Rows, ruled: NextLogits) -> None:
        """Greedy decoding and sampling."""
        ids = rows.ids[: rows.num_singles]
        token_ids = highest(ruled.scores[: rows.num_singles], 1)[1].squeeze(1)
        if len(rows.options.sampled):
            token_ids[rows.options.sampled] = self._draw(rows, ruled)
        gained = ruled.log_likelihood(torch.arange(len(ids), device=self.device), token_ids)
        is_stop, is_closing = token_ids == self._eos_id, self._closes(ids, token_ids)
        self._tables.append(ids, token_ids, log_likelihoods=self._tables.log_likelihoods[ids] + gained)
        is_last = self._tables.lengths[ids] >= rows.options.max_tokens[: rows.num_singles]
        ended = (is_stop | is_closing | is_last).nonzero().squeeze(1)
        if len(ended):
            self._end_singles(rows, ended, is_stop=is_stop[ended], is_closing=is_closing[ended])

    def _closes(
        self, rows: Int[Tensor, "any"], token_ids: Int[Tensor, "any *ranks"]
    ) -> Bool[Tensor, "any *ranks"]:
        """Where the next token of these rows ends the caption and stays part of it; one given never does."""
        if not len(self._closing_ids):
            return torch.zeros_like(token_ids, dtype=torch.bool)
        is_closing = torch.isin(token_ids, self._closing_ids)
        is_chosen = self._tables.forced_next(rows) == self._tables.pad_id
        return is_closing & is_chosen.view(-1, *[1] * (token_ids.ndim - 1))

    def _draw(self, rows: Rows, ruled: NextLogits) -> Int[Tensor, "sampled"]:
        options, at = rows.options, rows.options.sampled
        positions = self._tables.lengths[rows.ids[at]]
        return draw_tokens(
            ruled.scores[at],
            uniform_noise(options.seeds[at], options.candidates[at], positions),
            temperature=options.temperature[at],
            top_k=options.top_k[at],
            top_p=options.top_p[at],
        )

    def _end_singles(
        self,
        rows: Rows,
        ended: Int[Tensor, "ended"],
        *,
        is_stop: Bool[Tensor, "ended"],
        is_closing: Bool[Tensor, "ended"],
    ) -> None:
        ids, tables = rows.ids[ended], self._tables
        captions = to_candidates(
            tables.token_ids[ids],
            tables.lengths[ids] - is_stop.long(),
            tables.log_likelihoods[ids],
            is_stop | is_closing,
        )
        for at, caption in zip(ended.tolist(), captions, strict=True):
            image, row = rows.owners[at], rows.row_ids[at]
            if image.ticket in self._images:
                image.done[image.indices[image.rows.index(row)]] = caption
                self._leave(image, row)
                if not image.rows:
                    self._end(image, [image.done[index] for index in sorted(image.done)])

    def _extend_beams(self, rows: Rows, ruled: NextLogits) -> None:
        tables, groups, ids = self._tables, rows.beam_groups, rows.ids[rows.num_singles :]
        best = best_continuations(ruled.scores[rows.num_singles :], tables.scores[ids], groups)
        parents = groups.members.gather(1, best.parents)
        gained = ruled.log_likelihood(parents + rows.num_singles, best.token_ids)
        log_likelihoods = tables.log_likelihoods[ids][parents] + gained
        lengths = tables.lengths[ids][groups.members[:, 0]] + 1
        is_closing = self._closes(ids[groups.members[:, 0]], best.token_ids)
        split = split_continuations(best, groups, lengths=lengths, eos_id=self._eos_id, is_closing=is_closing)
        if split.is_finishing.any():
            self._finished.merge(
                rows.beam_slots,
                groups,
                scores=groups.normalize(best.scores, lengths).masked_fill(~split.is_finishing, NEVER),
                log_likelihoods=log_likelihoods,
                token_ids=tables.continued(ids[parents], best.token_ids),
                lengths=lengths.unsqueeze(1) - split.is_stop.long(),
                is_stop=split.is_stop | is_closing,
            )
        kept = split.kept
        tables.inherit(ids, ids[groups.for_rows(parents.gather(1, kept))])
        kept_ids, kept_likelihoods = best.token_ids.gather(1, kept), log_likelihoods.gather(1, kept)
        tables.append(ids, groups.for_rows(kept_ids), log_likelihoods=groups.for_rows(kept_likelihoods))
        tables.scores[ids] = groups.for_rows(split.scores)
        hopes = groups.normalize(split.scores, lengths)[:, 0]
        is_done = hopes <= self._finished.worst(rows.beam_slots, groups)
        for at in is_done.nonzero().squeeze(1).tolist():
            image = rows.beam_images[at]
            self._end(image, self._finished.candidates(image.slot)[: image.options.num_captions])
