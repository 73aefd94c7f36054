"""What the training loop needs to know of a stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Losses:
    """What a stage says of one batch.

    Args:
        total: scalar to minimise.
        parts: named scalars for the log.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


class Stage(Protocol):
    """What the loop needs to know of a stage.

    Args:
        name: shown beside the progress bar.
        module: parameters with requires_grad learn; nothing else is saved.
        items: training images; a batch is some of their rows.
    """

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def items(self) -> int: ...

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        """The mean losses of some images; `done` is the share of training behind us, 0..1."""

    def evaluate(self) -> dict[str, float]:
        """Figures on validation data; empty without any."""

    def samples(self) -> list[str]:
        """A few lines that show a person what has been learnt."""

    def write_result(self, folder: Path, *, step: int) -> None:
        """Writes the present weights as something that other commands read."""
