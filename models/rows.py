"""The rows of a decoding batch as tensors: what each was asked for, and what it has written so far."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.beams import BeamGroups
from models.generation import Candidate, GenerationOptions
from models.next_token import NEVER, ban_repeats, weaken_repetition
from models.row_groups import RowGroups


@dataclass
class ImageInFlight:
    """An image that is decoded: its live rows, and which of its captions each of them writes."""

    ticket: int
    options: GenerationOptions
    slot: int
    rows: list[int]
    indices: list[int]
    length: int = 0
    done: dict[int, Candidate] = field(default_factory=dict)

    @property
    def is_beam(self) -> bool:
        return self.options.strategy == "beam"


class Rows:
    """The live rows of some images, those of beams last; built anew only when a row joins or leaves."""

    def __init__(self, images: Iterable[ImageInFlight], device: torch.device, *, prefix_length: int) -> None:
        self.images = sorted(images, key=lambda image: image.is_beam)
        self.owners = [image for image in self.images for _ in image.rows]
        self.row_ids = [row for image in self.images for row in image.rows]
        self.ids = torch.tensor(self.row_ids, device=device)
        self.slots = torch.tensor([image.slot for image in self.owners], device=device)
        counts = [len(image.rows) for image in self.images]
        self.groups = RowGroups.of(counts, prefix_length=prefix_length, device=device)
        indices = [index for image in self.images for index in image.indices]
        self.options = RowOptions.of([image.options for image in self.owners], indices, device)
        self.num_singles = sum(not image.is_beam for image in self.owners)
        self.beam_images = [image for image in self.images if image.is_beam]
        self.beam_slots = torch.tensor(
            [image.slot for image in self.beam_images], device=device, dtype=torch.long
        )
        self.beam_groups = BeamGroups.of([image.options for image in self.beam_images], device)

    @property
    def span(self) -> int:
        """Tokens of the longest caption so far."""
        return max(image.length for image in self.images)

    @property
    def has_forced(self) -> bool:
        """Whether some image's next token is given."""
        return any(image.length < len(image.options.prefix_ids) for image in self.images)


@dataclass(frozen=True)
class RowOptions:
    """The options of each row, and which rules any row asks for at all.

    Args:
        candidates: index of the caption among those of its image.
        sampled: rows that are sampled.
    """

    candidates: Int[Tensor, "rows"]
    seeds: Int[Tensor, "rows"]
    min_tokens: Int[Tensor, "rows"]
    max_tokens: Int[Tensor, "rows"]
    ngram_sizes: Int[Tensor, "rows"]
    top_k: Int[Tensor, "rows"]
    top_p: Float[Tensor, "rows"]
    temperature: Float[Tensor, "rows"]
    repetition_penalty: Float[Tensor, "rows"]
    is_beam: Bool[Tensor, "rows"]
    sampled: Int[Tensor, "sampled"]
    has_penalty: bool
    distinct_ngram_sizes: tuple[int, ...]

    @classmethod
    def of(
        cls, options: Sequence[GenerationOptions], candidates: Sequence[int], device: torch.device
    ) -> "RowOptions":
        """One row for each of the options."""

        def ints(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.long, device=device)

        def floats(values: Iterator[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float32, device=device)

        return cls(
            candidates=ints(candidates),
            seeds=ints(one.seed for one in options),
            min_tokens=ints(one.min_tokens for one in options),
            max_tokens=ints(one.max_tokens for one in options),
            ngram_sizes=ints(one.no_repeat_ngram_size for one in options),
            top_k=ints(one.top_k for one in options),
            top_p=floats(one.top_p for one in options),
            temperature=floats(one.temperature for one in options),
            repetition_penalty=floats(one.repetition_penalty for one in options),
            is_beam=torch.tensor([one.strategy == "beam" for one in options], device=device),
            sampled=ints(at for at, one in enumerate(options) if one.strategy == "sample"),
            has_penalty=any(one.repetition_penalty != 1.0 for one in options),
            distinct_ngram_sizes=tuple(sorted({one.no_repeat_ngram_size for one in options} - {0})),
        )


class RowTables:
    """What every row of a batch has written so far, in tensors made once.

    Args:
        token_ids: the caption, padded with the first id that is no token.
        forced_ids: tokens that the caption must start with, padded alike.
        ancestors: for each position the row whose cache holds that token.
        scores: of beams; -inf stands for a beam that is none.
    """

    def __init__(self, *, rows: int, max_tokens: int, pad_id: int, device: torch.device) -> None:
        self.pad_id = pad_id
        self.token_ids = torch.full((rows, max_tokens), pad_id, device=device)
        self.forced_ids = torch.full((rows, max_tokens), pad_id, device=device)
        self.ancestors = torch.zeros(rows, max_tokens, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.scores = torch.zeros(rows, device=device)
        self.log_likelihoods = torch.zeros(rows, device=device)

    def begin(self, rows: list[int], prefix_ids: Sequence[int]) -> None:
        """Empties an image's rows; of a beam only the first one counts until it has parted."""
        self.token_ids[rows] = self.pad_id
        self.forced_ids[rows] = self.pad_id
        for at, id in enumerate(prefix_ids):
            self.forced_ids[rows, at] = id
        self.lengths[rows] = 0
        self.log_likelihoods[rows] = 0.0
        self.scores[rows] = NEVER
        self.scores[rows[0]] = 0.0

    def inherit(self, ids: Int[Tensor, "rows"], parents: Int[Tensor, "rows"]) -> None:
        """Gives rows the history of others; their keys and values stay where they are."""
        self.token_ids[ids] = self.token_ids[parents]
        self.ancestors[ids] = self.ancestors[parents]

    def append(
        self,
        ids: Int[Tensor, "rows"],
        token_ids: Int[Tensor, "rows"],
        *,
        log_likelihoods: Float[Tensor, "rows"],
    ) -> None:
        """Lengthens rows by one token."""
        lengths = self.lengths[ids]
        self.token_ids[ids, lengths] = token_ids
        self.ancestors[ids, lengths] = ids
        self.lengths[ids] = lengths + 1
        self.log_likelihoods[ids] = log_likelihoods

    def continued(
        self, parents: Int[Tensor, "images ranks"], token_ids: Int[Tensor, "images ranks"]
    ) -> Int[Tensor, "images ranks tokens"]:
        """Captions of rows with one more token each; the rows themselves stay as they are."""
        return self.token_ids[parents].scatter(2, self.lengths[parents].unsqueeze(2), token_ids.unsqueeze(2))

    def written(self, image: ImageInFlight) -> dict[int, list[int]]:
        """Ids so far of an image's captions that still grow, by index; of a beam its best one, as 0."""
        rows = image.rows[:1] if image.is_beam else image.rows
        return dict(zip(image.indices, self.token_ids[rows, : image.length].tolist(), strict=False))

    def forced_next(self, ids: Int[Tensor, "rows"]) -> Int[Tensor, "rows"]:
        """The token that must come next; pad_id where any may."""
        return self.forced_ids[ids].gather(1, self.lengths[ids].unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class NextLogits:
    """What the model says of each row's next token, and what of it the options leave.

    Args:
        logits: unmodified, float32.
        log_norm: their log-sum-exp; not finite where the model failed.
        scores: what tokens are chosen by; -inf is forbidden.
    """

    logits: Float[Tensor, "rows vocab"]
    log_norm: Float[Tensor, "rows"]
    scores: Float[Tensor, "rows vocab"]

    def log_likelihood(
        self, rows: Int[Tensor, "*any"], token_ids: Int[Tensor, "*any"]
    ) -> Float[Tensor, "*any"]:
        """Of tokens under the unmodified model."""
        return self.logits[rows, token_ids] - self.log_norm[rows]


def apply_rules(
    logits: Float[Tensor, "rows vocab"],
    options: RowOptions,
    *,
    history: Int[Tensor, "rows tokens"],
    lengths: Int[Tensor, "rows"],
    eos_id: int,
    closing_ids: Int[Tensor, "closing"],
    never_generated: Int[Tensor, "banned"],
) -> NextLogits:
    """Penalties, then bans; a row with nothing left may end."""
    logits = logits.float()
    scores = logits.log_softmax(dim=1)
    log_norm = logits[:, 0] - scores[:, 0]
    end_scores = scores[:, eos_id].clone()
    if options.has_penalty:
        # As in transformers: a beam's penalty works on log-probabilities, every other strategy's on logits.
        base = torch.where(options.is_beam.unsqueeze(1), scores, logits)
        scores = weaken_repetition(base, history, options.repetition_penalty)
    scores.index_fill_(1, never_generated, NEVER)
    scores[:, eos_id].masked_fill_(lengths < options.min_tokens, NEVER)
    if len(closing_ids):
        is_early = (lengths + 1 < options.min_tokens).unsqueeze(1)
        scores[:, closing_ids] = scores[:, closing_ids].masked_fill(is_early, NEVER)
    for size in options.distinct_ngram_sizes:
        ban_repeats(scores, history, lengths, size=size, concerned=options.ngram_sizes == size)
    # Only so small a vocabulary can be banned whole: the pass over all scores is for it alone.
    num_bannable = history.shape[1] + len(never_generated) + len(closing_ids) + 1
    if options.distinct_ngram_sizes and num_bannable >= scores.shape[1]:
        is_stuck = scores.amax(dim=1).isneginf()
        scores[:, eos_id] = torch.where(is_stuck, end_scores, scores[:, eos_id])
    return NextLogits(logits, log_norm, scores)


def force_tokens(scores: Float[Tensor, "rows vocab"], forced: Int[Tensor, "rows"]) -> None:
    """Leaves a row nothing but its forced token, at score 0, in place; an id >= vocab forces nothing."""
    is_forced = (forced < scores.shape[1]).unsqueeze(1)
    places = forced.clamp(max=scores.shape[1] - 1).unsqueeze(1)
    kept = scores.gather(1, places).masked_fill(is_forced, 0.0)
    scores.masked_fill_(is_forced, NEVER).scatter_(1, places, kept)
