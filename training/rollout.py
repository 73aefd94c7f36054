"""Sampled captions with the decoder's logits, and their straight-through Gumbel-Softmax relaxation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function

from models.decoder import CaptionDecoder
from training.sampling import Sampler


@dataclass(frozen=True)
class Rollout:
    """Sampled captions, those of one image next to each other.

    Args:
        token_ids: words, end-of-text, padding; a caption cut at the limit has no end-of-text.
        is_token: True up to and with end-of-text.
        logits: the decoder's, with gradient: one row for each True of `is_token`, in its order. Padding, a
            third of the rectangle on captions of 13 tokens cut at 20, costs nothing.
    """

    token_ids: Int[Tensor, "captions length"]
    is_token: Bool[Tensor, "captions length"]
    logits: Float[Tensor, "tokens vocab"]

    @property
    def targets(self) -> Int[Tensor, "tokens"]:
        """The token that was sampled from each row of `logits`."""
        return self.token_ids[self.is_token]

    @property
    def lengths(self) -> Int[Tensor, "captions"]:
        """Tokens of each caption, end-of-text included."""
        return self.is_token.sum(dim=1)

    def spread(self, values: Float[Tensor, "tokens *rest"]) -> Float[Tensor, "captions length *rest"]:
        """What belongs to tokens as a rectangle of captions, 0 at the padding."""
        rectangle = values.new_zeros(*self.token_ids.shape, *values.shape[1:])
        return rectangle.index_put((self.is_token,), values)


def teacher_forced(
    decoder: CaptionDecoder,
    prefix: Float[Tensor, "images prefix width"],
    token_ids: Int[Tensor, "captions length"],
) -> Rollout:
    """The rollout of given captions, all positions in one pass; no gradient from a token to later ones."""
    is_token = token_ids != decoder.config.vocab_size
    logits = decoder(prefix, token_ids, captions_per_image=len(token_ids) // len(prefix), wanted=is_token)
    return Rollout(token_ids, is_token, logits)


@dataclass(frozen=True)
class Relaxation:
    """Sampled tokens as a softmax of (logits + Gumbel noise) / tau, through which a gradient can flow.

    Args:
        logits: what the tokens were sampled from, with gradient.
        soft: the softmax, without; rows of zeros pass nothing on.
        tau: what the logits were divided by in all.
    """

    logits: Float[Tensor, "rows vocab"]
    soft: Float[Tensor, "rows vocab"]
    tau: float

    def lookup(self, table: Float[Tensor, "vocab table"]) -> Float[Tensor, "rows table"]:
        """`soft @ table` in gradient and zero in value.

        Added to a plain lookup of the tokens it is the straight-through estimate (arXiv 1611.01144), without
        one-hot rows, a product over the vocabulary forward, or a graph of the softmax.
        """
        rows: Tensor = _SoftLookup.apply(self.logits, self.soft, table, self.tau)
        return rows


def relax(
    logits: Float[Tensor, "rows vocab"],
    token_ids: Int[Tensor, "rows"],
    sampler: Sampler,
    *,
    tau: float,
    generator: torch.Generator,
) -> Relaxation:
    """The relaxation of tokens that were sampled from their logits; words alone pass a gradient on.

    CLIP pools at the end's row, so a linear estimate of another word in the end's place is wrong there.
    """
    policy = sampler.policy_logits(logits.detach())
    chosen = token_ids.clamp(max=logits.shape[-1] - 1)
    soft = gumbel_softmax_given(policy, chosen, tau=tau, generator=generator)
    is_word = (token_ids != sampler.tokens.eos_id) & (token_ids != sampler.pad_id)
    return Relaxation(logits, soft.mul_(is_word.unsqueeze(1)), tau * sampler.temperature)


@torch.no_grad()
def gumbel_softmax_given(
    logits: Float[Tensor, "rows vocab"],
    token_ids: Int[Tensor, "rows"],
    *,
    tau: float,
    generator: torch.Generator,
) -> Float[Tensor, "rows vocab"]:
    """Samples of the Gumbel-Softmax distribution, given that `token_ids` are where its rows are largest.

    Drawing the token first and the noise after (arXiv 2010.04838) gives the same pairs as drawing the noise
    first, so that tokens can come from the cached decoder and noise is needed in the gradient's pass only.
    """
    source = _generator_on(logits.device, generator)
    waits = torch.empty_like(logits).exponential_(generator=source).clamp_(min=1e-20).log_()
    first = waits.gather(1, token_ids.unsqueeze(1))  # the winner's log waiting time, as if all rates were one
    others = torch.logaddexp(waits.sub_(logits.log_softmax(dim=-1)), first)
    perturbed = others.scatter_(1, token_ids.unsqueeze(1), first).neg_()
    return perturbed.div_(tau).softmax(dim=-1)


class _SoftLookup(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, soft: Tensor, table: Tensor, tau: float) -> Tensor:
        device = logits.device.type
        is_autocast = torch.is_autocast_enabled(device)
        ctx.dtype = torch.get_autocast_dtype(device) if is_autocast else table.dtype
        ctx.tau = tau
        ctx.save_for_backward(soft, table)
        return table.new_zeros(len(logits), table.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        soft, table = ctx.saved_tensors
        pull = (gradients[0].to(ctx.dtype) @ table.to(ctx.dtype).T).float()
        mean = torch.linalg.vecdot(soft, pull).unsqueeze(1)
        return pull.sub_(mean).mul_(soft).div_(ctx.tau), None, None, None


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Sampling and the pass that differentiates it must see the same network."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself, or one on the device that depends on it: noise for a vocabulary is not moved."""
    if generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
