"""Small batches whose gradients are added up train as one large batch does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.training.toy_stage import LOOP, OPTIM, ToyStage
from training.loop import train
from training.stage import Losses


class PlainStage(ToyStage):
    """Without dropout and noise: what it learns depends on the images of a step alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        inputs = self._inputs[torch.from_numpy(rows)]
        return Losses(functional.mse_loss(self.module(inputs), inputs.sum(dim=1, keepdim=True)), {})


def test_four_batches_of_5_train_as_one_of_20(tmp_path: Path) -> None:
    weights = []
    for batch_size, accumulate in ((20, 1), (5, 4)):
        stage = PlainStage()
        before = stage.weights()
        loop = replace(LOOP, batch_size=batch_size, accumulate=accumulate)
        result = train(stage, optim=OPTIM, loop=loop, out=tmp_path / str(accumulate), resume=False)
        assert result.step == 8
        assert (stage.weights() - before).abs().max() > 0.01
        weights.append(stage.weights())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-6)
