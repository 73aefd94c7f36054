"""One image on its way through the engine."""

from collections.abc import Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from torch import Tensor

from models.generation import GenerationOptions
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions, Priority

Answer: TypeAlias = Future[ImageCaptions]
_numbers = count()


@dataclass(eq=False)
class Work:
    """An accepted image, its caller's future, and the seconds spent so far.

    Args:
        image: uint8 pixels or a float embedding.
        stage_began: time.monotonic() when the image entered the stage that it is in.
        embedding: CLIP's unit vector of the image, once it is encoded.
    """

    image: Tensor
    options: CaptionOptions
    generation: GenerationOptions
    request_id: Hashable
    priority: Priority
    stage_began: float
    future: Answer = field(default_factory=Future)
    number: int = field(default_factory=lambda: next(_numbers))
    embedding: Tensor | None = None
    queue_s: float = 0.0
    encode_s: float = 0.0

    @property
    def has_pixels(self) -> bool:
        return self.image.ndim == 3


def answer(future: Answer, result: ImageCaptions) -> None:
    """Settles a future; the caller may have cancelled it, or its deadline been first."""
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Answer, error: Exception) -> None:
    """Settles a future with an error, unless somebody was first."""
    with suppress(InvalidStateError):
        future.set_exception(error)
