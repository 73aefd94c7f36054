"""Learning rate, parameter groups and weight averaging in closed form."""

import pytest
import torch
from torch import nn

from training.config_parts import OptimConfig
from training.optim import WeightAverage, build_optimizer, freeze, lr_share, parameter_groups


def test_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    config = OptimConfig(warmup_steps=10, final_lr=0.1)
    shares = [lr_share(step, total_steps=110, config=config) for step in range(111)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == pytest.approx(1.0)
    assert shares[60] == pytest.approx(0.55)
    assert shares[110] == pytest.approx(0.1)


def test_run_shorter_than_its_warm_up_still_reaches_the_peak() -> None:
    assert lr_share(4, total_steps=5, config=OptimConfig(warmup_steps=100)) == 1.0


def test_only_matrices_decay() -> None:
    groups = parameter_groups(_Model(), OptimConfig(weight_decay=0.1))
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert decayed == {"body.weight", "head.weight"}


def test_longest_prefix_sets_the_learning_rate_and_zero_freezes() -> None:
    config = OptimConfig(lr=1.0, lr_multipliers={"body": 0.5, "body.bias": 0.1, "head": 0.0})
    rates = {name: group["lr"] for group in parameter_groups(_Model(), config) for name in group["names"]}
    assert rates["body.weight"] == 0.5
    assert rates["body.bias"] == 0.1
    assert rates["words.weight"] == 1.0
    assert "head.weight" not in rates


def test_freezing_everything_is_an_error() -> None:
    model = _Model()
    freeze(model, ("words", "body", "norm", "head"))
    with pytest.raises(ValueError, match="nothing is left to train"):
        build_optimizer(model, OptimConfig())


def test_prefix_that_freezes_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no parameter starts with boddy; names start like words\.weight"):
        freeze(_Model(), ("boddy",))


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_multiplier_of_no_parameter_is_an_error(factor: float) -> None:
    config = OptimConfig(lr_multipliers={"body.": 0.5, "boddy.": factor})
    with pytest.raises(ValueError, match=r"optim\.lr_multipliers.*\n.*no parameter starts with boddy\.;"):
        parameter_groups(_Model(), config)


def test_average_follows_its_recurrence_and_gives_the_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = WeightAverage(model, decay=0.5)
    for step in range(100, 103):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(step)
    with average.in_place():
        assert model.weight.item() == pytest.approx(0.5**3 * 0 + 0.125 * 1 + 0.25 * 2 + 0.5 * 3)
    assert model.weight.item() == 3.0


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.body = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 2, bias=False)
