"""Ways to a gradient of the expected reward of sampled captions; each takes any reward."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.bridge import SoftRows
from models.decoder import CaptionDecoder
from training.config_parts import RolloutConfig
from training.rollout import Relaxation, Rollout, relax, teacher_forced
from training.sampling import Sampler


class Rewards(Protocol):
    """What captions are worth, each reward by its name."""

    def __call__(
        self, token_ids: Int[Tensor, "captions length"], soft_rows: SoftRows | None = None
    ) -> Mapping[str, Float[Tensor, "captions"]]: ...


@dataclass(frozen=True)
class Estimate:
    """Args:
    rollout: the sampled captions.
    losses: by name of the reward; in value minus its mean over the samples, in gradient minus the estimated
        gradient of its expectation.
    """

    rollout: Rollout
    losses: dict[str, Tensor]


class Estimator(Protocol):
    """One way to the gradient."""

    def __call__(
        self,
        decoder: CaptionDecoder,
        prefix: Float[Tensor, "images prefix width"],
        rewards: Rewards,
        generator: torch.Generator,
    ) -> Estimate:
        """Samples captions of the images and estimates; dropout must be off."""


@dataclass(frozen=True)
class GumbelParallel:
    """Straight-through Gumbel-Softmax (arXiv 1611.01144) in one teacher-forced pass.

    What a token does to the score is seen, what it does to the tokens after it is not.
    """

    sampler: Sampler
    samples: int
    tau: float

    def __call__(
        self, decoder: CaptionDecoder, prefix: Tensor, rewards: Rewards, generator: torch.Generator
    ) -> Estimate:
        token_ids = self.sampler.sample(decoder, prefix, samples=self.samples, generator=generator)
        rollout = teacher_forced(decoder, prefix, token_ids)
        relaxed = relax(rollout.logits, rollout.targets, self.sampler, tau=self.tau, generator=generator)

        def soft_rows(table: Tensor) -> Tensor:
            return rollout.spread(relaxed.lookup(table))

        return _straight_through(rollout, rewards, soft_rows)


@dataclass(frozen=True)
class GumbelRecurrent:
    """As GumbelParallel, token after token: the gradient also flows through the decoder's inputs."""

    sampler: Sampler
    samples: int
    tau: float

    def __call__(
        self, decoder: CaptionDecoder, prefix: Tensor, rewards: Rewards, generator: torch.Generator
    ) -> Estimate:
        token_ids = self.sampler.sample(decoder, prefix, samples=self.samples, generator=generator)
        written = decoder.token_embedding.weight[: decoder.config.vocab_size].detach()
        logits, continuation = decoder.begin(prefix, captions_per_image=self.samples)
        steps: list[Relaxation] = []
        for position, targets in enumerate(token_ids.unbind(dim=1)):
            if position > 0:
                newest = decoder.token_embedding(token_ids[:, position - 1])
                logits, continuation = decoder.advance(newest + steps[-1].lookup(written), continuation)
            steps.append(relax(logits, targets, self.sampler, tau=self.tau, generator=generator))

        def soft_rows(table: Tensor) -> Tensor:
            return torch.stack([step.lookup(table) for step in steps], dim=1)

        is_token = token_ids != self.sampler.pad_id
        all_logits = torch.stack([step.logits for step in steps], dim=1)
        return _straight_through(Rollout(token_ids, is_token, all_logits[is_token]), rewards, soft_rows)


@dataclass(frozen=True)
class Reinforce:
    """Self-critical sequence training (arXiv 1612.00563): rewarded samples become likelier.

    Unbiased, and neither rewards nor vocabularies need a gradient.

    Args:
        baseline: what a sample must beat: "mean", the mean reward of the image's other samples; "greedy", the
            reward of its greedy caption.
        advantages: "normalised" divides by their standard deviation over the batch, so that a reward's weight
            means the same whatever its scale; "raw" leaves them.
    """

    sampler: Sampler
    samples: int
    baseline: Literal["mean", "greedy"]
    advantages: Literal["normalised", "raw"] = "normalised"

    def __call__(
        self, decoder: CaptionDecoder, prefix: Tensor, rewards: Rewards, generator: torch.Generator
    ) -> Estimate:
        token_ids = self.sampler.sample(decoder, prefix, samples=self.samples, generator=generator)
        with torch.no_grad():
            gained = rewards(token_ids)
            baselines = self._baselines(decoder, prefix, rewards, gained)
        rollout = teacher_forced(decoder, prefix, token_ids)
        log_likelihoods = self._log_likelihoods(rollout)
        losses = {}
        for name, reward in gained.items():
            advantages = self._scaled(reward - baselines[name])
            losses[name] = _with_value(-(advantages * log_likelihoods).mean(), -reward.mean())
        return Estimate(rollout, losses)

    def _baselines(
        self, decoder: CaptionDecoder, prefix: Tensor, rewards: Rewards, gained: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if self.baseline == "mean":
            return {name: mean_of_others(reward, self.samples) for name, reward in gained.items()}
        greedy = rewards(self.sampler.greedy(decoder, prefix))
        return {name: reward.repeat_interleave(self.samples) for name, reward in greedy.items()}

    def _scaled(self, advantages: Tensor) -> Tensor:
        if self.advantages == "raw":
            return advantages
        return advantages / advantages.std(correction=0).clamp(min=1e-6)

    def _log_likelihoods(self, rollout: Rollout) -> Float[Tensor, "captions"]:
        policy = self.sampler.policy_logits(rollout.logits)
        log_probs = -functional.cross_entropy(policy, rollout.targets, reduction="none")
        return rollout.spread(log_probs).sum(dim=1)


def build_estimator(config: RolloutConfig, sampler: Sampler, *, done: float) -> Estimator:
    """The estimator that a configuration names, when this share of training is behind us."""
    tau = config.gumbel_tau + done * (config.final_gumbel_tau - config.gumbel_tau)
    match config.estimator:
        case "gumbel-parallel":
            return GumbelParallel(sampler, config.samples, tau)
        case "gumbel-recurrent":
            return GumbelRecurrent(sampler, config.samples, tau)
        case "reinforce":
            return Reinforce(sampler, config.samples, config.baseline, config.advantages)


def mean_of_others(rewards: Float[Tensor, "captions"], samples: int) -> Float[Tensor, "captions"]:
    """For each caption the mean reward of its image's other samples."""
    by_image = rewards.view(-1, samples)
    return ((by_image.sum(dim=1, keepdim=True) - by_image) / (samples - 1)).flatten()


def _straight_through(rollout: Rollout, rewards: Rewards, soft_rows: SoftRows) -> Estimate:
    gained = rewards(rollout.token_ids, soft_rows)
    return Estimate(rollout, {name: -reward.mean() for name, reward in gained.items()})


def _with_value(gradient: Tensor, value: Tensor) -> Tensor:
    """A scalar with the gradient of one and the value of the other."""
    return gradient - gradient.detach() + value
