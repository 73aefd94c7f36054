"""The chunked loss against torch's own cross-entropy on whole logits."""

import pytest
import torch
from torch.nn import functional

from training import linear_cross_entropy as module
from training.linear_cross_entropy import linear_cross_entropy


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_value_and_gradients_are_those_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, label_smoothing: float
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    states, weight, targets = _problem(rows=11)
    expected = functional.cross_entropy(states @ weight.T, targets, label_smoothing=label_smoothing)
    wanted = torch.autograd.grad(3 * expected, (states, weight))
    loss = linear_cross_entropy(states, weight, targets, label_smoothing=label_smoothing)
    got = torch.autograd.grad(3 * loss, (states, weight))
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_that_do_not_learn_cost_no_gradient() -> None:
    states, weight, targets = _problem(rows=11)
    (wanted,) = torch.autograd.grad(linear_cross_entropy(states, weight, targets), states)
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = linear_cross_entropy(states, weight.detach(), targets)
    torch.testing.assert_close(torch.autograd.grad(loss, states)[0], wanted)
    assert kept == [states.shape]


def test_autocast_runs_the_products_in_its_type_and_keeps_the_result_close() -> None:
    states, weight, targets = _problem(rows=64)
    exact = linear_cross_entropy(states, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = linear_cross_entropy(states, weight, targets)
    assert rounded.dtype == torch.float32
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)


def test_no_rows_give_no_loss_and_no_gradient() -> None:
    states, weight, targets = _problem(rows=0)
    loss = linear_cross_entropy(states, weight, targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


def _problem(*, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, 5, generator=generator).requires_grad_()
    weight = torch.randn(7, 5, generator=generator).requires_grad_()
    return states, weight, torch.randint(7, (rows,), generator=generator)
