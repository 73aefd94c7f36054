"""The bounds of the engine."""

import math
from dataclasses import dataclass

from models.generation import MAX_BEAMS
from service.engine.speed import Wanted


@dataclass(frozen=True)
class EngineSettings:
    """How much the engine takes on.

    Args:
        max_depth: images that may hold a place: reserved, waiting or running; bulk work takes at most half.
        max_wait_s: seconds of work ahead of it, at the rate measured, that an interactive image may meet.
        max_images: images decoded side by side.
        max_rows: sequences decoded side by side; a beam of 4 takes 4.
        precision: number format of the weights (service/engine/speed.py).
        encode_batch: images encoded between two decode steps; on a CPU, CLIP gains nothing beyond 8.
    """

    max_depth: int = 256
    max_wait_s: float = math.inf
    max_images: int = 32
    max_rows: int = 128
    encode_batch: int = 8
    precision: Wanted = "auto"

    def __post_init__(self) -> None:
        if self.max_rows < MAX_BEAMS:
            raise ValueError(f"max_rows is {self.max_rows}; one image may need {MAX_BEAMS}")
        if min(self.max_depth, self.max_images, self.encode_batch) < 1:
            raise ValueError(f"{self} has a bound below 1")


DEFAULTS = EngineSettings()
