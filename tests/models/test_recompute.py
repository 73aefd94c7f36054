"""Activations computed again for the gradient: the same numbers from less memory."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.decoder import CaptionDecoder
from tests.tiny import tiny_decoder_config


def test_gradients_are_the_same_with_dropout_and_fewer_bytes_are_kept() -> None:
    kept, plain = _bytes_and_gradients(recompute=False)
    fewer, recomputed = _bytes_and_gradients(recompute=True)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)
    assert fewer < 0.6 * kept


def test_gradient_through_sampled_tokens_is_the_same() -> None:
    expected, actual = (_gradient_token_by_token(recompute=recompute) for recompute in (False, True))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_nothing_is_recomputed_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("checkpointed without a gradient")

    monkeypatch.setattr("models.decoder.checkpoint", refuse)
    decoder, prefix, token_ids = _decoder_and_batch(recompute=True)
    with torch.no_grad():
        assert decoder(prefix, token_ids).isfinite().all()


def _bytes_and_gradients(*, recompute: bool) -> tuple[int, dict[str, Tensor]]:
    decoder, prefix, token_ids = _decoder_and_batch(recompute=recompute)
    parameters = {value.untyped_storage().data_ptr() for value in decoder.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        loss = decoder(prefix, token_ids)[..., :1].square().sum()
    kept_bytes = sum(kept.values())
    loss.backward()
    return kept_bytes, {
        name: value.grad for name, value in decoder.named_parameters() if value.grad is not None
    }


def _gradient_token_by_token(*, recompute: bool) -> Tensor:
    decoder, prefix, token_ids = _decoder_and_batch(recompute=recompute)
    decoder.eval()
    logits, continuation = decoder.begin(prefix.requires_grad_())
    total = logits.square().sum()
    for position in range(3):
        embeddings = decoder.token_embedding(token_ids[:, position])
        logits, continuation = decoder.advance(embeddings, continuation)
        total = total + logits.square().sum()
    (gradient,) = torch.autograd.grad(total, prefix)
    return gradient


def _decoder_and_batch(*, recompute: bool) -> tuple[CaptionDecoder, Tensor, Tensor]:
    torch.manual_seed(0)
    config = replace(tiny_decoder_config(50), dropout=0.2)
    decoder = CaptionDecoder(config, prefix_length=3)
    if recompute:
        decoder.recompute_activations()
    return decoder, torch.randn(4, 3, config.width), torch.randint(50, (4, 12))
