"""The vocabulary bridges: exact values forward, useful gradients backward."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.bridge import SoftRows
from models.captioner import Captioner
from models.tokenizer import Gpt2Vocabulary
from tests.tiny import byte_level_bpe, tiny_captioner, tiny_gpt2_captioner

CAPTIONS = ["the dog runs", "Snow on the giraffe", "a girl's frisbee"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return tiny_gpt2_captioner(tmp_path_factory.mktemp("gpt2"), byte_level_bpe())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return tiny_captioner(tmp_path_factory.mktemp("own"))


def batch_of(captioner: Captioner, captions: list[str]) -> Tensor:
    tokenizer = captioner.tokenizer
    rows = [[*tokenizer.encode(caption), tokenizer.eos_id] for caption in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows])


def soft_rows_of(one_hot: Tensor) -> SoftRows:
    """The gradient of these rows over the vocabulary, without their value."""
    return lambda table: (one_hot - one_hot.detach()) @ table


def one_hot_of(captioner: Captioner, token_ids: Tensor) -> Tensor:
    vocab_size = captioner.tokenizer.vocab_size
    return functional.one_hot(token_ids, vocab_size + 1)[..., :vocab_size].float()


@pytest.mark.parametrize("kind", ["own", "gpt2"])
@torch.no_grad()
def test_forward_value_is_the_exact_clip_embedding(kind: str, request: pytest.FixtureRequest) -> None:
    captioner: Captioner = request.getfixturevalue(kind)
    token_ids = batch_of(captioner, CAPTIONS)
    soft = captioner.encode_token_ids(token_ids, soft_rows_of(one_hot_of(captioner, token_ids)))
    torch.testing.assert_close(soft, captioner.clip.encode_captions(CAPTIONS))
    torch.testing.assert_close(captioner.encode_token_ids(token_ids), soft)


@pytest.mark.parametrize("kind", ["own", "gpt2"])
def test_caption_cut_at_its_limit_is_scored_without_its_end(
    kind: str, request: pytest.FixtureRequest
) -> None:
    captioner: Captioner = request.getfixturevalue(kind)
    words = captioner.tokenizer.encode("the dog runs")
    token_ids = torch.tensor([words])
    soft = captioner.encode_token_ids(token_ids, soft_rows_of(one_hot_of(captioner, token_ids)))
    torch.testing.assert_close(soft, captioner.clip.encode_captions(["the dog runs"]))


@pytest.mark.parametrize("kind", ["own", "gpt2"])
def test_following_the_gradient_raises_the_score(kind: str, request: pytest.FixtureRequest) -> None:
    """Straight-through ascent on the logits of five free tokens makes sampled captions score higher."""
    captioner: Captioner = request.getfixturevalue(kind)
    target = captioner.clip.encode_captions(["the cat in water"])
    torch.manual_seed(0)
    logits = torch.zeros(5, captioner.tokenizer.vocab_size, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    before = _mean_score(captioner, logits, target)
    for _ in range(40):
        optimizer.zero_grad()
        (-_mean_score(captioner, logits, target)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = _mean_score(captioner, logits, target)
    assert after.item() > before.item() + 0.1


def _mean_score(captioner: Captioner, logits: Tensor, target: Tensor) -> Tensor:
    one_hot = functional.gumbel_softmax(logits.expand(16, -1, -1), hard=True)
    token_ids = one_hot.argmax(dim=-1)
    return (captioner.encode_token_ids(token_ids, soft_rows_of(one_hot)) * target).sum(dim=-1).mean()


def test_aligned_gradient_reaches_every_decoder_token_of_a_word(gpt2: Captioner) -> None:
    token_ids = batch_of(gpt2, ["a giraffe"])
    one_hot = one_hot_of(gpt2, token_ids).requires_grad_()
    direction = torch.randn(1, gpt2.clip.embed_dim, generator=torch.Generator().manual_seed(1))
    (gpt2.encode_token_ids(token_ids, soft_rows_of(one_hot)) * direction).sum().backward()  # type: ignore[no-untyped-call]
    assert one_hot.grad is not None
    assert (one_hot.grad[0].abs().sum(dim=-1) > 0).all()


@pytest.mark.shared_data
def test_aligned_bridge_on_the_true_gpt2_vocabulary(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = Gpt2Vocabulary.from_files(shared_data / "tokenizers" / "gpt2")
    captioner = tiny_gpt2_captioner(tmp_path, tokenizer)
    captions = ["A giraffe catches a frisbee near two zebras.", "Donuts on a skateboard!"]
    token_ids = batch_of(captioner, captions)
    with torch.no_grad():
        soft = captioner.encode_token_ids(token_ids, soft_rows_of(one_hot_of(captioner, token_ids)))
    torch.testing.assert_close(soft, captioner.clip.encode_captions(captions))
