"""A stage that trains in milliseconds; run as a program, it trains slowly enough to be killed."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config_parts import LoopConfig, OptimConfig
from training.loop import TrainingResult, train
from training.stage import Losses

OPTIM = OptimConfig(lr=0.02, warmup_steps=3)
LOOP = LoopConfig(epochs=4, batch_size=4, accumulate=2, save_every=3, average_decay=0.9, evaluate_every=4)


class ToyStage:
    """Regression with dropout and random noise on its input, so that every kind of randomness is in play."""

    name = "toy"
    items = 40

    def __init__(self, *, pause_s: float = 0.0) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.3), nn.Linear(16, 1))
        self._inputs = torch.randn(self.items, 3)
        self._pause_s = pause_s
        self.poisoned_at: int | None = None
        self.calls = 0

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        time.sleep(self._pause_s)
        self.calls += 1
        inputs = self._inputs[torch.from_numpy(rows)]
        noisy = inputs + 0.1 * torch.randn(inputs.shape, generator=generator)
        loss = functional.mse_loss(self.module(noisy), inputs.sum(dim=1, keepdim=True))
        if self.poisoned_at == self.calls:
            loss = loss * torch.nan
        return Losses(loss, {"done": torch.tensor(done)})

    def evaluate(self) -> dict[str, float]:
        error = functional.mse_loss(self.module(self._inputs), self._inputs.sum(dim=1, keepdim=True))
        return {"fit": -float(error)}

    def samples(self) -> list[str]:
        return ["a sample"]

    def write_result(self, folder: Path, *, step: int) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.module.state_dict(), folder / "weights.pt")
        (folder / "step").write_text(str(step))

    def weights(self) -> Tensor:
        return torch.cat([value.detach().flatten() for value in self.module.parameters()])


def run(out: Path, *, resume: bool, pause_s: float = 0.0) -> tuple[ToyStage, TrainingResult]:
    """Trains, or goes on with, the toy run in a folder."""
    stage = ToyStage(pause_s=pause_s)
    return stage, train(stage, optim=OPTIM, loop=LOOP, out=out, resume=resume)


if __name__ == "__main__":
    run(Path(sys.argv[1]), resume=False, pause_s=0.05)
