"""Losses in closed form, and the direction in which their gradients pull."""

import math

import pytest
import torch
from torch.nn import functional

from training.losses import (
    contrastive_loss,
    kl_to_reference,
    length_excess,
    repetition,
)

PAD, END = 7, 6


def test_contrastive_loss_of_perfect_pairs_in_closed_form() -> None:
    embeddings = torch.eye(4)
    loss = contrastive_loss(embeddings, embeddings, scale=2.0)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 3) - 2, rel=1e-5)


def test_contrastive_loss_is_symmetric() -> None:
    images, texts = _units(5, 8), _units(5, 8, seed=1)
    there, back = contrastive_loss(images, texts, scale=9.0), contrastive_loss(texts, images, scale=9.0)
    assert there.item() == pytest.approx(back.item())


def test_kl_agrees_with_torch_and_is_zero_for_the_reference_itself() -> None:
    logits, reference = _normal(4, 5), _normal(4, 5, seed=1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=reference)
    ).mean()
    assert kl_to_reference(logits, reference).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_to_reference(logits, logits).item() == pytest.approx(0.0, abs=1e-7)


def test_kl_gradient_is_that_of_the_policy_with_the_reference_held() -> None:
    """In closed form: p x (log p - log q - KL) at each logit."""
    logits, reference = _normal(1, 5).requires_grad_(), _normal(1, 5, seed=1)
    kl = kl_to_reference(logits, reference)
    kl.backward()  # type: ignore[no-untyped-call]
    log_p, log_q = logits.detach().log_softmax(dim=1), reference.log_softmax(dim=1)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, log_p.exp() * (log_p - log_q - kl.detach()))


def test_length_costs_nothing_up_to_the_target_and_pulls_the_end_closer_beyond_it() -> None:
    ends = torch.full((1, 6), 0.01, requires_grad=True)
    is_token = torch.ones(1, 6, dtype=torch.bool)
    assert length_excess(ends, is_token, target=6.0).item() == 0.0
    length_excess(ends, is_token, target=3.0).backward()  # type: ignore[no-untyped-call]
    assert ends.grad is not None
    assert (ends.grad[0, :5] < 0).all()


def test_expected_length_in_closed_form() -> None:
    ends = torch.full((1, 4), 0.5)
    expected = 1 + 0.5 + 0.25 + 0.125
    assert length_excess(ends, torch.ones(1, 4, dtype=torch.bool), target=1.0).item() == pytest.approx(
        (expected - 1) ** 2
    )


def test_repetition_is_the_probability_of_pairs_that_the_caption_has() -> None:
    """ "1 2 1 2": at the fourth token the pair (1, 2) may come again; nothing else may."""
    token_ids, is_token = _caption([1, 2, 1, 2, END])
    logits = _normal(5, PAD)
    expected = logits[3].softmax(dim=0)[2] + logits[4].softmax(dim=0)[1]
    assert repetition(logits, token_ids, is_token).item() == pytest.approx(expected.item(), rel=1e-5)


def test_repetition_counts_every_way_to_repeat_once() -> None:
    """ "1 2 1 3 1 2": both pairs of the first "1" are open to the third, (1, 2) only once to a fourth."""
    token_ids, is_token = _caption([1, 2, 1, 3, 1, 2, 1, END])
    logits = _normal(8, PAD).log_softmax(dim=1)
    at = logits.exp()
    expected = at[3, 2] + at[5, 2] + at[5, 3] + at[6, 1] + at[7, 2] + at[7, 3]
    assert repetition(logits, token_ids, is_token).item() == pytest.approx(expected.item(), rel=1e-5)


def test_repetition_of_single_words_costs_nothing() -> None:
    token_ids, is_token = _caption([1, 2, 3, END])
    assert repetition(_normal(4, PAD), token_ids, is_token).item() == 0


def test_repetition_pushes_the_repeating_word_down() -> None:
    token_ids, is_token = _caption([1, 2, 1, 2, END])
    logits = _normal(5, PAD).requires_grad_()
    repetition(logits, token_ids, is_token).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[3, 2] > 0
    assert logits.grad[:3].abs().max() == 0


def test_repetition_knows_which_rows_are_which_caption_s() -> None:
    token_ids = torch.tensor([[3, END, PAD, PAD, PAD], [1, 2, 1, 2, END]])
    is_token = token_ids != PAD
    logits = _normal(7, PAD)
    alone = repetition(logits[2:], token_ids[1:], is_token[1:])
    assert repetition(logits, token_ids, is_token).item() == pytest.approx(alone.item() / 2, rel=1e-5)


def _caption(token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor([token_ids])
    return rows, rows != PAD


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _units(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(_normal(*shape, seed=seed), dim=-1)
