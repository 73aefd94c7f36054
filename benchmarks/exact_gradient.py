"""The exact gradient of an expected reward, by enumeration of every caption that a few words can make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.decoder import CaptionDecoder
from models.tokenizer import CaptionTokenizer
from training.estimators import Rewards
from training.rollout import teacher_forced
from training.sampling import Sampler


@dataclass(frozen=True)
class FewWords:
    """A vocabulary small enough to enumerate, cut out of a tokenizer's.

    Args:
        words: ids that captions are made of, end-of-text left out.
    """

    words: tuple[int, ...]
    eos_id: int
    never_generated: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: CaptionTokenizer, words: Sequence[str]) -> "FewWords":
        """These words of a tokenizer, each of which must be one token."""
        ids = [tokenizer.encode(word) for word in words]
        if any(len(word) != 1 for word in ids):
            raise ValueError(f"not all of {', '.join(words)} are one token")
        kept = tuple(word[0] for word in ids)
        rest = set(range(tokenizer.vocab_size)) - {*kept, tokenizer.eos_id}
        return cls(kept, tokenizer.eos_id, tuple(sorted(rest)))

    def captions(self, *, max_tokens: int, pad_id: int) -> Int[Tensor, "captions length"]:
        """Every caption of up to `max_tokens` tokens, those cut at the limit without end-of-text."""
        ended = [
            [*words, self.eos_id]
            for length in range(max_tokens)
            for words in product(self.words, repeat=length)
        ]
        rows = ended + [list(words) for words in product(self.words, repeat=max_tokens)]
        return torch.tensor([row + [pad_id] * (max_tokens - len(row)) for row in rows])


def exact_losses(
    decoder: CaptionDecoder,
    prefix: Float[Tensor, "images prefix width"],
    rewards: Rewards,
    sampler: Sampler,
    words: FewWords,
) -> Mapping[str, Tensor]:
    """As an estimator's losses, but exact in value and gradient: minus the sum of probability x reward."""
    captions = words.captions(max_tokens=sampler.max_tokens, pad_id=sampler.pad_id)
    token_ids = captions.repeat(len(prefix), 1)
    rollout = teacher_forced(decoder, prefix, token_ids)
    log_probs = sampler.policy_logits(rollout.logits).log_softmax(dim=-1)
    chosen = log_probs.gather(1, rollout.targets.unsqueeze(1)).squeeze(1)
    probabilities = rollout.spread(chosen).sum(dim=1).exp()
    with torch.no_grad():
        gained = rewards(token_ids)
    return {name: -(probabilities * reward).sum() / len(prefix) for name, reward in gained.items()}


def gradient(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Float[Tensor, "weights"]:
    """The loss's gradient to all parameters, as one vector; 0 where it does not reach."""
    parameters = list(parameters)
    parts = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])
