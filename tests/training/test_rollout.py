"""Rollouts and their relaxation: hard values, soft gradients, padding that costs nothing."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.captioner import Captioner
from tests.tiny import tiny_captioner
from tests.training.sharp import prefix_of_two, sampler_of, sharpen
from training.rollout import Rollout, gumbel_softmax_given, relax, teacher_forced, without_dropout


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    captioner = tiny_captioner(tmp_path_factory.mktemp("tiny"))
    sharpen(captioner.decoder, captioner.tokenizer.eos_id)
    return captioner


def test_logits_are_those_of_the_whole_rectangle_without_its_padding(captioner: Captioner) -> None:
    rollout = _rollout(captioner)
    whole = captioner.decoder(prefix_of_two(), rollout.token_ids, captions_per_image=20)
    assert not rollout.is_token.all()
    torch.testing.assert_close(rollout.logits, whole[rollout.is_token])
    assert len(rollout.targets) == len(rollout.logits) == int(rollout.lengths.sum())


def test_spread_puts_each_token_s_value_at_its_place(captioner: Captioner) -> None:
    rollout = _rollout(captioner)
    rectangle = rollout.spread(rollout.targets + 1)
    assert torch.equal(rectangle, (rollout.token_ids + 1) * rollout.is_token)


def test_relaxation_is_largest_at_the_sampled_token() -> None:
    logits = torch.randn(500, 7, generator=_rng())
    token_ids = logits.softmax(dim=1).multinomial(1, generator=_rng()).squeeze(1)
    soft = gumbel_softmax_given(logits, token_ids, tau=0.7, generator=_rng())
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(500))
    assert torch.equal(soft.argmax(dim=1), token_ids)


def test_token_then_noise_is_distributed_as_noise_then_token() -> None:
    """Mean and spread of the relaxed rows against Gumbel noise drawn first, for each token chosen."""
    logits = torch.tensor([0.5, -1.0, 2.0, -torch.inf]).expand(200_000, 4)
    first = functional.gumbel_softmax(logits, tau=0.8)
    token_ids = logits.softmax(dim=1)[0].multinomial(len(logits), replacement=True, generator=_rng())
    after = gumbel_softmax_given(logits, token_ids, tau=0.8, generator=_rng())
    for token in range(3):
        expected, given = first[first.argmax(dim=1) == token], after[token_ids == token]
        torch.testing.assert_close(given.mean(dim=0), expected.mean(dim=0), atol=0.01, rtol=0)
        torch.testing.assert_close(given.std(dim=0), expected.std(dim=0), atol=0.01, rtol=0)
    assert after[:, 3].abs().max() == 0


def test_lookup_is_zero_in_value_and_soft_rows_times_table_in_gradient(captioner: Captioner) -> None:
    logits, token_ids, table, direction = _lookup_case(captioner)
    sampler = sampler_of(captioner, temperature=2.0)
    relaxed = relax(logits, token_ids, sampler, tau=0.5, generator=_rng())
    value = relaxed.lookup(table)
    assert value.abs().max() == 0
    (actual,) = torch.autograd.grad((value * direction).sum(), logits)
    words = logits.detach()[:-1].requires_grad_()
    noise = relaxed.soft[:-1].log() * 0.5 - words.detach() / 2.0
    soft = ((words / 2.0 + noise) / 0.5).softmax(dim=1)
    (expected,) = torch.autograd.grad((soft @ table * direction[:-1]).sum(), words)
    torch.testing.assert_close(actual[:-1], expected, atol=1e-5, rtol=1e-4)


def test_the_end_and_what_is_never_generated_carry_no_gradient(captioner: Captioner) -> None:
    logits, token_ids, table, direction = _lookup_case(captioner)
    relaxed = relax(logits, token_ids, sampler_of(captioner), tau=1.0, generator=_rng())
    (gradient,) = torch.autograd.grad((relaxed.lookup(table) * direction).sum(), logits)
    assert gradient[-1].abs().max() == 0
    assert gradient[:, list(captioner.tokenizer.never_generated)].abs().max() == 0
    assert (gradient[:-1].abs().amax(dim=1) > 0).all()


def test_dropout_is_off_inside_and_back_afterwards(captioner: Captioner) -> None:
    captioner.train()
    with without_dropout(captioner):
        assert not captioner.decoder.training
    assert captioner.decoder.training
    assert not captioner.clip.training
    captioner.eval()


def _rollout(captioner: Captioner) -> Rollout:
    sampler = sampler_of(captioner)
    token_ids = sampler.sample(captioner.decoder, prefix_of_two(), samples=20, generator=_rng())
    return teacher_forced(captioner.decoder, prefix_of_two(), token_ids)


def _lookup_case(captioner: Captioner) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of four tokens of which the last is end-of-text; a table; where the gradient comes from."""
    vocab_size = captioner.tokenizer.vocab_size
    logits = torch.randn(4, vocab_size, generator=_rng(1)).requires_grad_()
    words = captioner.tokenizer.encode("the red dog")
    token_ids = torch.tensor([*words, captioner.tokenizer.eos_id])
    return (
        logits,
        token_ids,
        torch.randn(vocab_size, 8, generator=_rng(2)),
        torch.randn(4, 8, generator=_rng(3)),
    )


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
