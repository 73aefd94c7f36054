"""Straight-through captions: hard values, soft gradients, and two estimators that agree where they must."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.captioner import Captioner
from models.decoder import CaptionDecoder, Continuation
from tests.tiny import byte_level_bpe, tiny_captioner, tiny_gpt2_captioner
from training.rollout import Rollout, Sampler, gumbel_noise, without_dropout

Surrogate = Callable[[Captioner, Rollout], Tensor]
ESTIMATORS = ["parallel", "recurrent"]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    captioner = tiny_captioner(tmp_path_factory.mktemp("tiny"))
    _sharpen(captioner.decoder, captioner.tokenizer.eos_id)
    return captioner


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_value_is_exactly_the_hard_one_hot(captioner: Captioner, estimator: str) -> None:
    rollout = _roll_out(captioner, estimator)
    vocab_size = captioner.tokenizer.vocab_size
    hard = functional.one_hot(rollout.token_ids, vocab_size + 1)[..., :vocab_size].float()
    assert torch.equal(rollout.one_hot.detach(), hard)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_captions_end_at_end_of_text_and_nothing_follows(captioner: Captioner, estimator: str) -> None:
    rollout = _roll_out(captioner, estimator, samples=40)
    eos_id, pad_id = captioner.tokenizer.eos_id, captioner.tokenizer.pad_id
    ended = 0
    for token_ids, length in zip(rollout.token_ids.tolist(), rollout.lengths.tolist(), strict=True):
        assert eos_id not in token_ids[: length - 1]
        assert set(token_ids[length:]) <= {pad_id}
        ended += token_ids[length - 1] == eos_id
    assert ended > 0
    assert rollout.one_hot[~rollout.is_word].abs().sum() == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_never_generated_tokens_are_not_sampled(captioner: Captioner, estimator: str) -> None:
    token_ids = _roll_out(captioner, estimator, samples=40).token_ids
    assert not torch.isin(token_ids, torch.tensor(captioner.tokenizer.never_generated)).any()


def test_never_generated_tokens_get_no_gradient(captioner: Captioner) -> None:
    rollout = _roll_out(captioner, "parallel", samples=40)
    banned = captioner.tokenizer.never_generated[0]
    rollout.logits.retain_grad()
    rollout.one_hot.square().sum().backward()  # type: ignore[no-untyped-call]
    assert rollout.logits.grad is not None
    assert rollout.logits.grad[..., banned].abs().max() == 0
    assert rollout.logits.grad.abs().max() > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_end_carries_no_gradient(captioner: Captioner, estimator: str) -> None:
    captioner.decoder.zero_grad()
    rollout = _roll_out(captioner, estimator, samples=40)
    ends = rollout.one_hot[rollout.token_ids == captioner.tokenizer.eos_id]
    assert len(ends) > 0
    weights = torch.randn(ends.shape, generator=torch.Generator().manual_seed(0))
    (ends * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [value.grad for value in captioner.decoder.parameters() if value.grad is not None]
    assert all(gradient.abs().max() == 0 for gradient in gradients)
    captioner.decoder.zero_grad()


def test_gradient_agrees_with_a_long_reinforce_estimate(captioner: Captioner) -> None:
    straight_through = _mean_gradient(captioner, _straight_through_surrogate, seeds=range(10))
    reinforce = _mean_gradient(captioner, _reinforce_surrogate, seeds=range(10, 40))
    assert torch.cosine_similarity(straight_through, reinforce, dim=0) > 0.2


def test_both_estimators_sample_the_same_captions_from_the_same_seed(captioner: Captioner) -> None:
    parallel, recurrent = (_roll_out(captioner, estimator, samples=8) for estimator in ESTIMATORS)
    assert torch.equal(parallel.token_ids, recurrent.token_ids)
    torch.testing.assert_close(
        parallel.logits[parallel.is_word], recurrent.logits[parallel.is_word], atol=1e-4, rtol=1e-4
    )


def test_samples_follow_the_decoder_s_distribution(captioner: Captioner) -> None:
    torch.manual_seed(3)
    prefix = torch.randn(1, 3, 32)
    sampler = _sampler(captioner, samples=4000, max_tokens=1)
    rollout = sampler.parallel(captioner.decoder, prefix, torch.Generator().manual_seed(0))
    logits = rollout.logits[0, 0].detach().clone()
    logits[list(captioner.tokenizer.never_generated)] = -torch.inf
    observed = functional.one_hot(rollout.token_ids[:, 0], len(logits)).float().mean(dim=0)
    assert (observed - logits.softmax(dim=0)).abs().max() < 0.03


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_similarity_has_a_gradient_to_every_part_that_writes(captioner: Captioner, estimator: str) -> None:
    prefix = _prefix().requires_grad_()
    rollout = _roll_out(captioner, estimator, prefix=prefix)
    captioner.decoder.zero_grad()
    _similarity(captioner, rollout).backward()  # type: ignore[no-untyped-call]
    assert prefix.grad is not None
    assert prefix.grad.abs().max() > 0
    silent = [
        name
        for name, value in captioner.decoder.named_parameters()
        if value.grad is None or value.grad.abs().max() == 0
    ]
    assert silent == []


def test_gradient_through_gpt2_s_vocabulary_reaches_the_prefix(tmp_path: Path) -> None:
    captioner = tiny_gpt2_captioner(tmp_path, byte_level_bpe())
    prefix = _prefix().requires_grad_()
    _similarity(captioner, _roll_out(captioner, "parallel", prefix=prefix)).backward()  # type: ignore[no-untyped-call]
    assert prefix.grad is not None
    assert prefix.grad.abs().max() > 0


def test_parallel_gradient_is_the_recurrent_one_without_the_path_through_inputs(captioner: Captioner) -> None:
    """One pass over all positions and a loop with detached inputs are the same function."""
    parallel = _prefix().requires_grad_()
    _similarity(captioner, _roll_out(captioner, "parallel", prefix=parallel)).backward()  # type: ignore[no-untyped-call]
    detached = _prefix().requires_grad_()
    captioner.decoder.__class__ = _TeacherForced
    try:
        _similarity(captioner, _roll_out(captioner, "recurrent", prefix=detached)).backward()  # type: ignore[no-untyped-call]
    finally:
        captioner.decoder.__class__ = CaptionDecoder
    assert parallel.grad is not None
    torch.testing.assert_close(parallel.grad, detached.grad, atol=1e-6, rtol=1e-3)


def test_following_the_gradient_raises_the_similarity_of_new_samples(captioner: Captioner) -> None:
    prefix = _prefix().requires_grad_()
    before = _mean_similarity(captioner, prefix)
    optimizer = torch.optim.Adam([prefix], lr=0.05)
    for seed in range(40):
        optimizer.zero_grad()
        rollout = _roll_out(captioner, "parallel", prefix=prefix, samples=16, seed=seed)
        (-_similarity(captioner, rollout)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert _mean_similarity(captioner, prefix) > before + 0.05


def test_gumbel_noise_has_the_standard_mean_and_variance() -> None:
    noise = gumbel_noise(torch.empty(200_000), torch.Generator().manual_seed(0))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)


def test_dropout_is_off_inside_and_back_afterwards(captioner: Captioner) -> None:
    captioner.train()
    with without_dropout(captioner):
        assert not captioner.decoder.training
    assert captioner.decoder.training
    assert not captioner.clip.training
    captioner.eval()


class _TeacherForced(CaptionDecoder):
    """Cuts the gradient from a token to those after it."""

    def advance(self, embeddings: Tensor, continuation: Continuation) -> tuple[Tensor, Continuation]:
        return super().advance(embeddings.detach(), continuation)


def _sampler(captioner: Captioner, *, samples: int, max_tokens: int = 6) -> Sampler:
    return Sampler(
        tokens=captioner.tokenizer,
        pad_id=captioner.tokenizer.pad_id,
        samples=samples,
        max_tokens=max_tokens,
        gumbel_tau=0.7,
    )


def _roll_out(
    captioner: Captioner, estimator: str, *, prefix: Tensor | None = None, samples: int = 3, seed: int = 0
) -> Rollout:
    roll_out = getattr(_sampler(captioner, samples=samples), estimator)
    generator = torch.Generator().manual_seed(seed)
    rollout: Rollout = roll_out(captioner.decoder, _prefix() if prefix is None else prefix, generator)
    return rollout


def _prefix() -> Tensor:
    return torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(5))


def _targets(captioner: Captioner) -> Tensor:
    return captioner.clip.encode_captions(["the red dog", "a cat in the snow"])


def _similarity(captioner: Captioner, rollout: Rollout) -> Tensor:
    return _similarities(captioner, rollout).mean()


def _similarities(captioner: Captioner, rollout: Rollout) -> Tensor:
    texts = captioner.encode_soft_captions(rollout.one_hot, rollout.token_ids)
    return (texts * _targets(captioner).repeat_interleave(len(texts) // 2, dim=0)).sum(dim=1)


def _mean_gradient(captioner: Captioner, surrogate: Surrogate, *, seeds: range) -> Tensor:
    total = torch.zeros(2 * 3 * 32)
    for seed in seeds:
        prefix = _prefix().requires_grad_()
        rollout = _roll_out(captioner, "parallel", prefix=prefix, samples=200, seed=seed)
        (gradient,) = torch.autograd.grad(surrogate(captioner, rollout), prefix)
        total += gradient.flatten()
    return total


def _straight_through_surrogate(captioner: Captioner, rollout: Rollout) -> Tensor:
    return _similarities(captioner, rollout).mean()


def _reinforce_surrogate(captioner: Captioner, rollout: Rollout) -> Tensor:
    rewards = _similarities(captioner, rollout).detach().view(2, -1)
    logits = rollout.logits.index_fill(2, torch.tensor(captioner.tokenizer.never_generated), -torch.inf)
    chosen = rollout.token_ids.clamp(max=logits.shape[2] - 1).unsqueeze(2)
    log_probs = logits.log_softmax(dim=2).gather(2, chosen).squeeze(2)
    likelihood = log_probs.masked_fill(~rollout.is_word, 0.0).sum(dim=1).view(2, -1)
    return ((rewards - rewards.mean(dim=1, keepdim=True)) * likelihood).mean()


@torch.no_grad()
def _mean_similarity(captioner: Captioner, prefix: Tensor) -> float:
    return float(
        _similarity(captioner, _roll_out(captioner, "parallel", prefix=prefix, samples=100, seed=99))
    )


@torch.no_grad()
def _sharpen(decoder: CaptionDecoder, eos_id: int) -> None:
    """Random decoders are all but uniform; this one has favourites, and end-of-text is one of them."""
    decoder.token_embedding.weight.mul_(15.0)
    end = decoder.token_embedding.weight[eos_id]
    decoder.norm.bias.add_(6.0 * end / end.square().sum())
