"""Captions sampled from the decoder without a gradient, on its cache."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.decoder import CaptionDecoder
from models.generation import SpecialTokens
from models.row_groups import RowGroups

ChooseTokens = Callable[[Float[Tensor, "rows vocab"]], Int[Tensor, "rows"]]


@dataclass(frozen=True)
class Sampler:
    """How captions are sampled; what ends at `max_tokens` has no end-of-text.

    Args:
        max_tokens: longest caption, end-of-text included.
        temperature: divides the logits; below 1 the samples are more like the greedy caption.
    """

    tokens: SpecialTokens
    pad_id: int
    max_tokens: int
    temperature: float = 1.0

    def sample(
        self,
        decoder: CaptionDecoder,
        prefix: Float[Tensor, "images prefix width"],
        *,
        samples: int,
        generator: torch.Generator,
    ) -> Int[Tensor, "captions length"]:
        """Words, end-of-text, padding of `samples` captions of each image, next to each other."""

        def choose(logits: Tensor) -> Tensor:
            return draw(self.policy_logits(logits), generator)

        return self._decode(decoder, prefix, choose, samples=samples)

    def greedy(
        self, decoder: CaptionDecoder, prefix: Float[Tensor, "images prefix width"]
    ) -> Int[Tensor, "images length"]:
        """The caption of each image whose every token is the likeliest."""

        def choose(logits: Tensor) -> Tensor:
            return self.policy_logits(logits).argmax(dim=-1)

        return self._decode(decoder, prefix, choose, samples=1)

    def policy_logits(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Logits, in float32, of the distribution that samples really come from."""
        banned = torch.tensor(self.tokens.never_generated, dtype=torch.long, device=logits.device)
        return logits.float().index_fill(-1, banned, -torch.inf) / self.temperature

    @torch.no_grad()
    def _decode(
        self, decoder: CaptionDecoder, prefix: Tensor, choose: ChooseTokens, *, samples: int
    ) -> Tensor:
        """Captions that have ended leave the batch."""
        images, captions, device = len(prefix), len(prefix) * samples, prefix.device
        cache = decoder.new_cache(images=images, rows=captions, max_tokens=self.max_tokens)
        slots = torch.arange(images, device=device)
        logits = decoder.prefill(prefix, cache, slots).repeat_interleave(samples, dim=0)
        slots = slots.repeat_interleave(samples)
        token_ids = torch.full((captions, self.max_tokens), self.pad_id, device=device)
        rows = torch.arange(captions, device=device)
        for position in range(self.max_tokens):
            newest = choose(logits)
            token_ids[rows, position] = newest
            goes_on = newest != self.tokens.eos_id
            rows, newest = rows[goes_on], newest[goes_on]
            if len(rows) == 0 or position + 1 == self.max_tokens:
                return token_ids[:, : position + 1]
            counts = torch.unique_consecutive(slots[rows], return_counts=True)[1].tolist()
            logits = decoder.step(
                newest,
                cache,
                rows=rows,
                image_slots=slots[rows],
                ancestors=rows.unsqueeze(1).expand(-1, position + 1),
                lengths=torch.full_like(rows, position),
                groups=RowGroups.of(counts, prefix_length=decoder.prefix_length, device=device),
            )
        return token_ids


def draw(logits: Float[Tensor, "rows vocab"], generator: torch.Generator) -> Int[Tensor, "rows"]:
    """One token of each row's softmax, by inverting its distribution function.

    A token of probability 0 is never drawn: the threshold is above 0 and at most the whole mass.
    """
    mass = logits.softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand(len(logits), 1, generator=generator, device=generator.device).to(logits.device)
    return torch.searchsorted(mass, (1 - uniform) * mass[:, -1:]).squeeze(1)
