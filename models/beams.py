"""One step of beam search for many images at once, each with its own number of beams."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.generation import MAX_BEAMS, Candidate, GenerationOptions
from models.next_token import NEVER
from models.top_scores import highest


@dataclass(frozen=True)
class BeamGroups:
    """Which rows are beams of one image, for images whose rows stand one after the other.

    Args:
        members: rows of each image, filled up to the widest with its last.
        flat: where in the flattened `members` each row stands.
        num_forced: tokens that were given; they count neither for score nor for length.
    """

    members: Int[Tensor, "images beams"]
    flat: Int[Tensor, "rows"]
    num_beams: Int[Tensor, "images"]
    num_forced: Int[Tensor, "images"]
    max_tokens: Int[Tensor, "images"]
    length_penalty: Float[Tensor, "images"]

    @classmethod
    def of(cls, options: Sequence[GenerationOptions], device: torch.device) -> "BeamGroups":
        counts = torch.tensor([one.num_beams for one in options], dtype=torch.long)
        beams = torch.arange(int(counts.max()) if len(options) else 0)
        starts = counts.cumsum(0) - counts
        members = starts.unsqueeze(1) + torch.minimum(beams, counts.unsqueeze(1) - 1)
        flat = (beams < counts.unsqueeze(1)).flatten().nonzero().squeeze(1)
        return cls(
            members=members.to(device),
            flat=flat.to(device),
            num_beams=counts.to(device),
            num_forced=torch.tensor([len(one.prefix_ids) for one in options], device=device),
            max_tokens=torch.tensor([one.max_tokens for one in options], device=device),
            length_penalty=torch.tensor([one.length_penalty for one in options], device=device),
        )

    def normalize(
        self, scores: Float[Tensor, "images any"], lengths: Int[Tensor, "images"]
    ) -> Float[Tensor, "images any"]:
        """Scores over a power of the number of tokens, the end token included."""
        num_generated = (lengths - self.num_forced).clamp(min=1)
        return scores / (num_generated**self.length_penalty).unsqueeze(1)

    def for_rows(self, values: Tensor) -> Tensor:
        """Of values for each image and beam, those that belong to a row, in the order of the rows."""
        return values.flatten()[self.flat]


@dataclass(frozen=True)
class Continuations:
    """The likeliest ways to go on of each image, best first.

    Args:
        scores: summed ranked log-probabilities; -inf where there are no more.
        parents: which of the image's beams each one continues.
        token_ids: what it adds.
    """

    scores: Float[Tensor, "images ranks"]
    parents: Int[Tensor, "images ranks"]
    token_ids: Int[Tensor, "images ranks"]


@dataclass(frozen=True)
class BeamStep:
    """What becomes of the continuations.

    Args:
        kept: ranks that become the next beams; those whose score is -inf stand for nothing.
        scores: of the next beams.
        is_finishing: continuations that join the finished ones.
        is_stop: continuations that end by the end token.
    """

    kept: Int[Tensor, "images beams"]
    scores: Float[Tensor, "images beams"]
    is_finishing: Bool[Tensor, "images ranks"]
    is_stop: Bool[Tensor, "images ranks"]


def best_continuations(
    token_scores: Float[Tensor, "rows vocab"],
    beam_scores: Float[Tensor, "rows"],
    groups: BeamGroups,
) -> Continuations:
    """The 2 x num_beams best of each image, found first within each row, then among the image's rows."""
    members, num_beams = groups.members, groups.num_beams
    width = members.shape[1]
    per_row = min(2 * width, token_scores.shape[1])
    row_scores, row_ids = highest(token_scores, per_row)
    is_beam = torch.arange(width, device=members.device) < num_beams.unsqueeze(1)
    all_scores = (row_scores + beam_scores.unsqueeze(1))[members].masked_fill(~is_beam.unsqueeze(2), NEVER)
    scores, found = all_scores.flatten(1).topk(min(2 * width, width * per_row), dim=1)
    beyond = torch.arange(scores.shape[1], device=members.device) >= 2 * num_beams.unsqueeze(1)
    scores = scores.masked_fill(beyond, NEVER)
    # What stands for nothing still needs a parent of its own image: rows never read another image's cache.
    parents = (found // per_row).masked_fill(scores.isneginf(), 0)
    return Continuations(scores, parents, row_ids[members].flatten(1).gather(1, found))


def split_continuations(
    best: Continuations,
    groups: BeamGroups,
    *,
    lengths: Int[Tensor, "images"],
    eos_id: int,
    is_closing: Bool[Tensor, "images ranks"],
) -> BeamStep:
    """Parts those that go on from those that end; one that ends counts only among the first num_beams.

    Args:
        lengths: tokens of the image's captions with the one that is added now.
        is_closing: continuations whose token ends the caption and stays part of it.
    """
    num_beams = groups.num_beams.unsqueeze(1)
    ranks = torch.arange(best.scores.shape[1], device=best.scores.device)
    is_alive = ~best.scores.isneginf()
    is_stop = best.token_ids == eos_id
    is_end = is_stop | is_closing | (lengths >= groups.max_tokens).unsqueeze(1)
    is_finishing = is_end & is_alive & (ranks < num_beams)
    is_running = ~is_end & is_alive
    kept = (~is_running).int().sort(dim=1, stable=True).indices[:, : groups.members.shape[1]]
    is_kept = is_running.gather(1, kept) & (ranks[: kept.shape[1]] < num_beams)
    return BeamStep(kept, best.scores.gather(1, kept).masked_fill(~is_kept, NEVER), is_finishing, is_stop)


class FinishedBeams:
    """The best finished captions of each image slot, best first, up to its number of beams."""

    def __init__(self, *, images: int, max_tokens: int, device: torch.device) -> None:
        shape = (images, MAX_BEAMS)
        self.scores = torch.full(shape, NEVER, device=device)
        self.log_likelihoods = torch.zeros(shape, device=device)
        self.token_ids = torch.zeros(*shape, max_tokens, dtype=torch.long, device=device)
        self.lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.is_stop = torch.zeros(shape, dtype=torch.bool, device=device)

    def clear(self, slot: int) -> None:
        self.scores[slot] = NEVER

    def merge(
        self,
        slots: Int[Tensor, "images"],
        groups: BeamGroups,
        *,
        scores: Float[Tensor, "images ranks"],
        log_likelihoods: Float[Tensor, "images ranks"],
        token_ids: Int[Tensor, "images ranks tokens"],
        lengths: Int[Tensor, "images ranks"],
        is_stop: Bool[Tensor, "images ranks"],
    ) -> None:
        """Takes in captions, -inf for none, and keeps the best num_beams of old and new."""
        places = torch.arange(self.scores.shape[1], device=scores.device)
        best, order = torch.cat([self.scores[slots], scores], dim=1).topk(len(places), dim=1)
        self.scores[slots] = best.masked_fill(places >= groups.num_beams.unsqueeze(1), NEVER)
        for table, new in (
            (self.log_likelihoods, log_likelihoods),
            (self.lengths, lengths),
            (self.is_stop, is_stop),
        ):
            table[slots] = torch.cat([table[slots], new], dim=1).gather(1, order)
        merged = torch.cat([self.token_ids[slots], token_ids], dim=1)
        self.token_ids[slots] = merged.gather(1, order.unsqueeze(2).expand(-1, -1, merged.shape[2]))

    def worst(self, slots: Int[Tensor, "images"], groups: BeamGroups) -> Float[Tensor, "images"]:
        """Score of the last place of each image; -inf while that place is empty."""
        return self.scores[slots].gather(1, groups.num_beams.unsqueeze(1) - 1).squeeze(1)

    def candidates(self, slot: int) -> list[Candidate]:
        """An image's captions, best first."""
        here = ~self.scores[slot].isneginf()
        return to_candidates(
            self.token_ids[slot, here],
            self.lengths[slot, here],
            self.log_likelihoods[slot, here],
            self.is_stop[slot, here],
        )


def to_candidates(
    token_ids: Int[Tensor, "rows tokens"],
    lengths: Int[Tensor, "rows"],
    log_likelihoods: Float[Tensor, "rows"],
    is_stop: Bool[Tensor, "rows"],
) -> list[Candidate]:
    """Captions brought over from the device."""
    rows = zip(token_ids.tolist(), lengths.tolist(), log_likelihoods.tolist(), is_stop.tolist(), strict=True)
    return [
        Candidate(tuple(ids[:n]), likelihood, "stop" if stop else "length")
        for ids, n, likelihood, stop in rows
    ]
