"""One image on its way through the engine."""

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

from torch import Tensor

from models.generation import GenerationOptions
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions, ImageScores, Priority

Answer: TypeAlias = Future[Any]  # of ImageCaptions, or of ImageScores where texts were given
Wanted: TypeAlias = Callable[[Tensor], bool]
TokenListener: TypeAlias = Callable[[Mapping[int, list[int]]], object]
_numbers = count()


@dataclass(eq=False)
class Texts:
    """Texts to score, shared by all images of a request; encoded with the first of them."""

    texts: tuple[str, ...]
    embeddings: Tensor | None = None


@dataclass(eq=False)
class Work:
    """An accepted image, its caller's future, and the seconds spent so far.

    Args:
        image: uint8 pixels or a float embedding.
        texts: what to score instead of writing captions.
        wanted: asked with the embedding whether captions shall be written; else the answer has none.
        on_tokens: told after each token what is written so far (DecodingBatch.written).
        request_id: images of one id take turns with those of others; None is a request of its own.
        stage_began: time.monotonic() when the image entered the stage that it is in.
        embedding: CLIP's unit vector of the image, once it is encoded.
    """

    image: Tensor
    options: CaptionOptions
    generation: GenerationOptions
    request_id: Hashable
    priority: Priority
    texts: Texts | None = None
    on_tokens: TokenListener | None = None
    wanted: Wanted | None = None
    stage_began: float = field(default_factory=time.monotonic)
    future: Answer = field(default_factory=Future)
    number: int = field(default_factory=lambda: next(_numbers))
    embedding: Tensor | None = None
    queue_s: float = 0.0
    encode_s: float = 0.0

    def __post_init__(self) -> None:
        self.request_id = object() if self.request_id is None else self.request_id

    @property
    def has_pixels(self) -> bool:
        return self.image.ndim == 3


def answer(future: Answer, result: ImageCaptions | ImageScores) -> None:
    """Settles a future; the caller may have cancelled it, or its deadline been first."""
    with suppress(InvalidStateError):
        future.set_result(result)


def fail(future: Answer, error: Exception) -> None:
    """Settles a future with an error, unless somebody was first."""
    with suppress(InvalidStateError):
        future.set_exception(error)
