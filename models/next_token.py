"""Penalties, bans and sampling, for a whole batch of rows with options of their own."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

NEVER = -float("inf")
_LOW_32_BITS = 0xFFFFFFFF
_NOISE_BITS = 24
"""A float32 holds 24 bits exactly, so the noise is the same on every device."""


def weaken_repetition(
    scores: Float[Tensor, "rows vocab"], history: Int[Tensor, "rows tokens"], penalty: Float[Tensor, "rows"]
) -> Float[Tensor, "rows vocab"]:
    """Divides the scores of tokens in the history by the penalty, or multiplies where negative (CTRL)."""
    vocab_size = scores.shape[1]
    padded, places = functional.pad(scores, (0, 1)), history.clamp(max=vocab_size)
    seen = padded.gather(1, places)
    weakened = torch.where(seen < 0, seen * penalty.unsqueeze(1), seen / penalty.unsqueeze(1))
    return padded.scatter(1, places, weakened)[:, :vocab_size]


def ban_repeats(
    scores: Float[Tensor, "rows vocab"],
    history: Int[Tensor, "rows tokens"],
    lengths: Int[Tensor, "rows"],
    *,
    size: int,
    concerned: Bool[Tensor, "rows"],
) -> None:
    """Forbids, in place, tokens that would complete an n-gram of this size that their row already has.

    It writes a place for each token of the history, not one for each of the vocabulary.

    Args:
        concerned: rows to which it applies.
    """
    if history.shape[1] < size:
        return
    tail_at = (lengths.unsqueeze(1) + torch.arange(1 - size, 0, device=scores.device)).clamp(min=0)
    tail = history.gather(1, tail_at)
    windows = history.unfold(1, size, 1)
    is_inside = torch.arange(windows.shape[1], device=scores.device) + size <= lengths.unsqueeze(1)
    is_match = (windows[..., :-1] == tail.unsqueeze(1)).all(dim=-1) & is_inside & concerned.unsqueeze(1)
    ceilings = scores.new_full(is_match.shape, float("inf")).masked_fill_(is_match, NEVER)
    scores.scatter_reduce_(1, windows[..., -1].masked_fill(~is_match, 0), ceilings, "amin")


def uniform_noise(
    seeds: Int[Tensor, "rows"], candidates: Int[Tensor, "rows"], positions: Int[Tensor, "rows"]
) -> Float[Tensor, "rows"]:
    """Numbers in [0, 1) made from seed, candidate and position alone: a counter-based generator."""
    state = _mix(seeds & _LOW_32_BITS)
    for counter in ((seeds >> 32) & _LOW_32_BITS, candidates, positions):
        state = _mix((state * 0x9E3779B1 + counter) & _LOW_32_BITS)
    noise: Tensor = (state >> (32 - _NOISE_BITS)).float() / 2**_NOISE_BITS
    return noise


def _mix(state: Int[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    """A bijection of 32-bit integers; each input bit flips about half of the output (Wellons' lowbias32)."""
    state = ((state ^ (state >> 16)) * 0x7FEB352D) & _LOW_32_BITS
    state = ((state ^ (state >> 15)) * 0x846CA68B) & _LOW_32_BITS
    mixed: Tensor = state ^ (state >> 16)
    return mixed


def draw_tokens(
    scores: Float[Tensor, "rows vocab"],
    noise: Float[Tensor, "rows"],
    *,
    temperature: Float[Tensor, "rows"],
    top_k: Int[Tensor, "rows"],
    top_p: Float[Tensor, "rows"],
) -> Int[Tensor, "rows"]:
    """The token at which the cumulative probability passes the row's noise.

    Probability accumulates in the order of ids, not of likelihood: there a rounding difference between two
    batches moves a border by as little, where in sorted order it can swap neighbours.
    """
    kept = keep_likeliest(scores / temperature.unsqueeze(1), top_k=top_k, top_p=top_p)
    cumulative = torch.softmax(kept, dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(noise.unsqueeze(1) * total, below_total)
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return drawn.clamp(max=scores.shape[1] - 1)


def keep_likeliest(
    scores: Float[Tensor, "rows vocab"], *, top_k: Int[Tensor, "rows"], top_p: Float[Tensor, "rows"]
) -> Float[Tensor, "rows vocab"]:
    """Scores with -inf outside the `top_k` likeliest and, of those, the fewest that hold `top_p` of the mass.

    Tokens as likely as the last one kept stay too.
    """
    limited = ((top_k > 0) | (top_p < 1)).nonzero().squeeze(1)
    if len(limited) == 0:
        return scores
    floor = torch.full_like(scores[:, 0], NEVER)
    floor[limited] = _least_kept(scores[limited], top_k=top_k[limited], top_p=top_p[limited])
    return scores.masked_fill(scores < floor.unsqueeze(1), NEVER)


def _least_kept(scores: Tensor, *, top_k: Tensor, top_p: Tensor) -> Float[Tensor, "rows"]:
    vocab_size = scores.shape[1]
    counts = torch.where(top_k > 0, top_k.clamp(max=vocab_size), vocab_size).unsqueeze(1)
    ordered = scores.topk(int(counts.max())).values
    is_in_count = torch.arange(ordered.shape[1], device=scores.device) < counts
    probabilities = torch.softmax(ordered.masked_fill(~is_in_count, NEVER), dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    is_kept = is_in_count & ((mass_before < top_p.unsqueeze(1)) | (top_p >= 1).unsqueeze(1))
    return ordered.gather(1, is_kept.sum(dim=1, keepdim=True) - 1).squeeze(1)
