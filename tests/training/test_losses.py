"""Losses in closed form, and the direction in which their gradients pull."""

import math

import pytest
import torch
from torch.nn import functional

from training.losses import (
    caption_cross_entropy,
    clip_similarity_loss,
    contrastive_loss,
    kl_to_reference,
    length_excess,
    retrieval_loss,
)

PAD = 7


def test_cross_entropy_counts_the_end_and_not_the_padding() -> None:
    logits = _normal(2, 4, PAD)
    token_ids = torch.tensor([[1, 2, 6, PAD], [3, 6, PAD, PAD]])
    log_probs = logits.log_softmax(dim=-1)
    expected = -(
        log_probs[0, 0, 1] + log_probs[0, 1, 2] + log_probs[0, 2, 6] + log_probs[1, 0, 3] + log_probs[1, 1, 6]
    )
    loss = caption_cross_entropy(logits, torch.eye(PAD), token_ids, pad_id=PAD)
    assert loss.item() == pytest.approx(expected.item() / 5)


def test_padding_gets_no_gradient_even_with_label_smoothing() -> None:
    logits = _normal(1, 3, PAD).requires_grad_()
    token_ids = torch.tensor([[1, 6, PAD]])
    loss = caption_cross_entropy(logits, torch.eye(PAD), token_ids, pad_id=PAD, label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 2].abs().max() == 0
    assert logits.grad[0, 1].abs().max() > 0


def test_contrastive_loss_of_perfect_pairs_in_closed_form() -> None:
    embeddings = torch.eye(4)
    loss = contrastive_loss(embeddings, embeddings, scale=2.0)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 3) - 2, rel=1e-5)


def test_contrastive_loss_is_symmetric() -> None:
    images, texts = _units(5, 8), _units(5, 8, seed=1)
    there, back = contrastive_loss(images, texts, scale=9.0), contrastive_loss(texts, images, scale=9.0)
    assert there.item() == pytest.approx(back.item())


def test_similarity_loss_is_minus_the_mean_cosine() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert clip_similarity_loss(images, texts).item() == -0.5


def test_retrieval_loss_is_lowest_when_each_caption_finds_its_own_image() -> None:
    images = torch.eye(3)
    own = images.repeat_interleave(2, dim=0)
    right = retrieval_loss(images, own, temperature=0.1)
    wrong = retrieval_loss(images, own.roll(2, dims=0), temperature=0.1)
    assert right.item() == pytest.approx(math.log(math.exp(10) + 2) - 10, abs=1e-5)
    assert wrong > 9


def test_retrieval_loss_gives_nothing_for_what_all_images_share() -> None:
    images = functional.normalize(torch.cat([_units(4, 6), torch.ones(4, 1)], dim=1), dim=1)
    texts = torch.zeros(4, 7, requires_grad=True)
    retrieval_loss(images, texts, temperature=0.1).backward()  # type: ignore[no-untyped-call]
    assert texts.grad is not None
    assert texts.grad[:, :6].abs().max() > 1e-2
    assert texts.grad[:, 6].abs().max() < 1e-6


def test_kl_agrees_with_torch_and_ignores_what_follows_the_end() -> None:
    logits, reference = _normal(2, 3, 5), _normal(2, 3, 5, seed=1)
    is_word = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    per_token = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=reference)
    )
    expected = (per_token * is_word).sum() / 3
    assert kl_to_reference(logits, reference, is_word).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_to_reference(logits, logits, is_word).item() == pytest.approx(0.0, abs=1e-7)


def test_length_costs_nothing_up_to_the_target_and_pulls_the_end_closer_beyond_it() -> None:
    ends = torch.full((1, 6), 0.01, requires_grad=True)
    is_word = torch.ones(1, 6)
    assert length_excess(ends, is_word, target=6.0).item() == 0.0
    length_excess(ends, is_word, target=3.0).backward()  # type: ignore[no-untyped-call]
    assert ends.grad is not None
    assert (ends.grad[0, :5] < 0).all()


def test_expected_length_in_closed_form() -> None:
    ends = torch.full((1, 4), 0.5)
    expected = 1 + 0.5 + 0.25 + 0.125
    assert length_excess(ends, torch.ones(1, 4), target=1.0).item() == pytest.approx((expected - 1) ** 2)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _units(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(_normal(*shape, seed=seed), dim=-1)
