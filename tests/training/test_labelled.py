"""The loss of a batch of captions is that of its tokens, whichever captions are read side by side."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.captioner import Captioner
from models.image_features import ImageFeatures
from training import labelled
from training.labelled import captions_loss, padded

CAPTIONS = [[5, 1], [2, 3, 4, 5, 6, 1], [1], [7, 8, 9, 1], [3, 1], [4, 4, 4, 4, 4, 4, 4, 1]]


@pytest.mark.parametrize("at_once", [1, 4, 6])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_those_of_one_rectangle(
    tiny_captioner: Captioner, monkeypatch: pytest.MonkeyPatch, at_once: int, label_smoothing: float
) -> None:
    monkeypatch.setattr(labelled, "CAPTIONS_AT_ONCE", at_once)
    captions = [torch.tensor(ids) for ids in CAPTIONS]
    features = ImageFeatures(functional.normalize(torch.randn(2, tiny_captioner.clip.embed_dim), dim=-1))
    token_ids = padded(captions, tiny_captioner.tokenizer.pad_id)
    logits = tiny_captioner(features, token_ids, captions_per_image=3)
    expected = functional.cross_entropy(
        logits.flatten(0, 1),
        token_ids.flatten(),
        ignore_index=tiny_captioner.tokenizer.pad_id,
        label_smoothing=label_smoothing,
    )
    loss = captions_loss(tiny_captioner, features, captions, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(_gradients(tiny_captioner, loss), _gradients(tiny_captioner, expected))


def _gradients(captioner: Captioner, loss: Tensor) -> tuple[Tensor, ...]:
    weights = [*captioner.mapping.parameters(), *captioner.decoder.parameters()]
    return torch.autograd.grad(loss, weights)
