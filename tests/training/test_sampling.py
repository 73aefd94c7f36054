"""Sampled captions: their form, their distribution, and the naive decoding that they agree with."""

import pytest
import torch
from torch.nn import functional

from models.captioner import Captioner
from models.generation import GenerationOptions
from models.naive import generate_naive
from tests.tiny import tiny_captioner
from tests.training.sharp import prefix_of_two, sampler_of, sharpen
from training.sampling import draw


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    captioner = tiny_captioner(tmp_path_factory.mktemp("tiny"))
    sharpen(captioner.decoder, captioner.tokenizer.eos_id)
    return captioner


def test_captions_end_at_end_of_text_and_padding_follows(captioner: Captioner) -> None:
    rows = _sample(captioner, samples=40).tolist()
    eos_id, pad_id = captioner.tokenizer.eos_id, captioner.tokenizer.pad_id
    assert any(row[-1] not in (eos_id, pad_id) for row in rows), "none was cut at the limit"
    for row in rows:
        length = row.index(pad_id) if pad_id in row else len(row)
        assert set(row[length:]) <= {pad_id}
        assert eos_id not in row[: length - 1]
        assert length == len(row) or row[length - 1] == eos_id


def test_never_generated_tokens_are_not_sampled(captioner: Captioner) -> None:
    token_ids = _sample(captioner, samples=40)
    assert not torch.isin(token_ids, torch.tensor(captioner.tokenizer.never_generated)).any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_decoder_s_distribution(captioner: Captioner, temperature: float) -> None:
    sampler = sampler_of(captioner, max_tokens=2, temperature=temperature)
    prefix, generator = prefix_of_two()[:1], torch.Generator().manual_seed(0)
    token_ids = sampler.sample(captioner.decoder, prefix, samples=6000, generator=generator)
    with torch.no_grad():
        likeliest = token_ids[token_ids[:, 0] != captioner.tokenizer.eos_id, 0].mode().values
        following = captioner.decoder(prefix, torch.stack([likeliest, likeliest]).unsqueeze(0))[0]
    after = token_ids[token_ids[:, 0] == likeliest, 1]
    for observed, logits in ((token_ids[:, 0], following[0]), (after, following[1])):
        logits[list(captioner.tokenizer.never_generated)] = -torch.inf
        shares = functional.one_hot(observed, len(logits)).float().mean(dim=0)
        assert (shares - (logits / temperature).softmax(dim=0)).abs().max() < 0.03


def test_greedy_captions_are_those_of_the_naive_decoding(captioner: Captioner) -> None:
    prefix = prefix_of_two()
    token_ids = sampler_of(captioner, max_tokens=6).greedy(captioner.decoder, prefix)
    options = GenerationOptions(strategy="greedy", max_tokens=6)
    for row, image in zip(token_ids.tolist(), prefix, strict=True):
        (expected,) = generate_naive(captioner.decoder, image, options, captioner.tokenizer)
        words = [id for id in row if id not in (captioner.tokenizer.eos_id, captioner.tokenizer.pad_id)]
        assert tuple(words) == expected.token_ids


def test_the_same_seed_samples_the_same_captions(captioner: Captioner) -> None:
    assert torch.equal(_sample(captioner), _sample(captioner))
    assert not torch.equal(_sample(captioner), _sample(captioner, seed=1))


def test_tokens_without_probability_are_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).repeat(20_000, 1)
    drawn = draw(logits, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}
    assert (drawn == 3).float().mean().item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)


def test_captions_of_one_token_need_no_second_step(captioner: Captioner) -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = sampler_of(captioner, max_tokens=1)
    token_ids = sampler.sample(captioner.decoder, prefix_of_two(), samples=3, generator=generator)
    assert token_ids.shape == (6, 1)


def _sample(captioner: Captioner, *, samples: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sampler_of(captioner).sample(
        captioner.decoder, prefix_of_two(), samples=samples, generator=generator
    )
