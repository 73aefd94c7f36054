"""Captions sampled with a gradient to the decoder: straight-through Gumbel-Softmax (arXiv 1611.01144)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.decoder import CaptionDecoder
from models.generation import SpecialTokens


@dataclass(frozen=True)
class Rollout:
    """Sampled captions, those of one image next to each other.

    Args:
        one_hot: in value exactly that of `token_ids`, zero after the end; in gradient the relaxation.
        token_ids: words, end-of-text, padding; a caption cut at the limit has no end-of-text.
        logits: the decoder's, with gradient, at each position of the sampled captions.
        is_word: True up to and with end-of-text.
    """

    one_hot: Float[Tensor, "captions length vocab"]
    token_ids: Int[Tensor, "captions length"]
    logits: Float[Tensor, "captions length vocab"]
    is_word: Bool[Tensor, "captions length"]

    @property
    def lengths(self) -> Int[Tensor, "captions"]:
        """Tokens of each caption, end-of-text included."""
        return self.is_word.sum(dim=1)


@dataclass(frozen=True)
class Sampler:
    """How captions are sampled.

    Args:
        samples: captions for each image.
        max_tokens: longest caption, end-of-text included.
        gumbel_tau: relaxation temperature; it shapes the gradient, never the samples.
    """

    tokens: SpecialTokens
    pad_id: int
    samples: int
    max_tokens: int
    gumbel_tau: float

    def recurrent(
        self,
        decoder: CaptionDecoder,
        prefix: Float[Tensor, "images prefix width"],
        generator: torch.Generator,
    ) -> Rollout:
        """The gradient also flows from each token to those before it, through the decoder's inputs."""
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        logits, continuation = decoder.begin(prefix, captions_per_image=self.samples)
        alive = torch.ones(len(logits), dtype=torch.bool, device=prefix.device)
        while True:
            noise = gumbel_noise(logits, generator)
            token_ids, alive = self._choose(logits, noise, alive)
            one_hot = self._straight_through(logits, noise, token_ids)
            steps.append((one_hot, token_ids, logits))
            if len(steps) == self.max_tokens or not alive.any():
                break
            embeddings = one_hot @ decoder.token_embedding.weight[: decoder.config.vocab_size]
            logits, continuation = decoder.advance(embeddings, continuation)
        one_hots, ids, all_logits = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
        return Rollout(one_hots, ids, all_logits, ids != self.pad_id)

    def parallel(
        self,
        decoder: CaptionDecoder,
        prefix: Float[Tensor, "images prefix width"],
        generator: torch.Generator,
    ) -> Rollout:
        """Samples without gradient, then one teacher-forced pass; a token's effect on later ones has none."""
        token_ids, noise = self._sample(decoder, prefix, generator)
        logits = decoder(prefix, token_ids, captions_per_image=self.samples)
        one_hot = self._straight_through(logits, noise, token_ids)
        return Rollout(one_hot, token_ids, logits, token_ids != self.pad_id)

    @torch.no_grad()
    def _sample(
        self, decoder: CaptionDecoder, prefix: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        ids, noises = [], []
        logits, continuation = decoder.begin(prefix, captions_per_image=self.samples)
        alive = torch.ones(len(logits), dtype=torch.bool, device=prefix.device)
        while True:
            noises.append(gumbel_noise(logits, generator))
            token_ids, alive = self._choose(logits, noises[-1], alive)
            ids.append(token_ids)
            if len(ids) == self.max_tokens or not alive.any():
                return torch.stack(ids, dim=1), torch.stack(noises, dim=1)
            logits, continuation = decoder.advance(decoder.token_embedding(token_ids), continuation)

    def _choose(self, logits: Tensor, noise: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each caption, padding where it has ended, and which captions go on."""
        token_ids = (self._allowed(logits) + noise).argmax(dim=-1)
        token_ids = torch.where(alive, token_ids, self.pad_id)
        return token_ids, alive & (token_ids != self.tokens.eos_id)

    def _straight_through(self, logits: Tensor, noise: Tensor, token_ids: Tensor) -> Tensor:
        """One-hot rows of the words and the end, nothing for padding; words alone carry a gradient.

        CLIP pools at the end's row, so a linear estimate of another word in the end's place is wrong there.
        Cosine to a long REINFORCE estimate with and without it: -0.7 and +0.5 on a tiny model that ends
        anywhere; 0.83 both ways on the default model, whose end is certain after a full stop.
        """
        soft = ((self._allowed(logits) + noise) / self.gumbel_tau).softmax(dim=-1)
        is_token = (token_ids != self.pad_id).unsqueeze(-1)
        chosen = token_ids.clamp(max=logits.shape[-1] - 1).unsqueeze(-1)
        hard = torch.zeros_like(soft).scatter_(-1, chosen, 1.0) * is_token
        is_word = is_token & (token_ids != self.tokens.eos_id).unsqueeze(-1)
        return hard + (soft - soft.detach()) * is_word

    def _allowed(self, logits: Tensor) -> Tensor:
        banned = torch.tensor(self.tokens.never_generated, dtype=torch.long, device=logits.device)
        return logits.float().index_fill(-1, banned, -torch.inf)


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in float32; the argmax of logits plus this is a sample of their softmax."""
    exponential = torch.empty(like.shape, dtype=torch.float32, device=generator.device)
    return -exponential.exponential_(generator=generator).clamp_(min=1e-20).log_().to(like.device)


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Sampling and the pass that differentiates it must see the same network."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
