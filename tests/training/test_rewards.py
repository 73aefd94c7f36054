"""Rewards of captions in closed form."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.tiny import tiny_captioner
from tests.training.sharp import rewards_of_two
from training.rewards import log_probability_of_own_image


def test_rewards_are_each_caption_s_under_its_own_image(tmp_path: Path) -> None:
    captioner = tiny_captioner(tmp_path)
    rewards = rewards_of_two(captioner)
    texts = ["red dog", "the cat", "dog", "snow"]
    ids = [[*captioner.tokenizer.encode(text), captioner.tokenizer.eos_id] for text in texts]
    token_ids = torch.tensor([row + [captioner.tokenizer.pad_id] * (3 - len(row)) for row in ids])
    gained = rewards(token_ids)
    cosines = captioner.clip.encode_captions(texts) @ rewards.images.T
    torch.testing.assert_close(gained["similarity"], cosines[range(4), [0, 0, 1, 1]])
    expected = (cosines / 0.1).log_softmax(dim=1)[range(4), [0, 0, 1, 1]]
    torch.testing.assert_close(gained["contrastive"], expected)


def test_contrastive_reward_is_highest_when_each_caption_finds_its_own_image() -> None:
    images = torch.eye(3)
    own = images.repeat_interleave(2, dim=0)
    right = _log_probability(images, own)
    wrong = _log_probability(images, own.roll(2, dims=0))
    assert right.tolist() == pytest.approx([10 - math.log(math.exp(10) + 2)] * 6, abs=1e-5)
    assert (wrong < -9).all()


def test_contrastive_reward_gives_nothing_for_what_all_images_share() -> None:
    unit = functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    images = functional.normalize(torch.cat([unit, torch.ones(4, 1)], dim=1), dim=1)
    texts = torch.zeros(4, 7, requires_grad=True)
    _log_probability(images, texts).sum().backward()  # type: ignore[no-untyped-call]
    assert texts.grad is not None
    assert texts.grad[:, :6].abs().max() > 1e-2
    assert texts.grad[:, 6].abs().max() < 1e-5


def test_contrastive_reward_keeps_its_precision_under_autocast() -> None:
    images = functional.normalize(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    plain = _log_probability(images, images, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = _log_probability(images, images, temperature=0.01)
    torch.testing.assert_close(low, plain, atol=1e-4, rtol=1e-4)


def test_contrastive_reward_also_picks_from_the_images_of_other_processes() -> None:
    images = functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    whole = _log_probability(images, texts)
    part = log_probability_of_own_image(images[:2], texts[:2], others=images[2:], temperature=0.1)
    torch.testing.assert_close(part, whole[:2])


def _log_probability(images: Tensor, texts: Tensor, *, temperature: float = 0.1) -> Tensor:
    return log_probability_of_own_image(images, texts, others=images[:0], temperature=temperature)
