"""From posted images to results: read in bounded threads, captioned in the engine, errors kept per image."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.generation import OptionError
from models.preprocess import Preprocess
from service.engine import errors as engine_errors
from service.engine.engine import Engine, Places
from service.engine.errors import EngineError
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions
from service.errors import (
    CaptioningFailedError,
    DeadlineExceededError,
    EngineUnavailableError,
    InvalidEmbeddingError,
    QueueFullError,
    ServiceError,
    StoppingError,
)
from service.images import ImageFacts, ImageLimits, read_pixels
from service.option_reading import invalid_option


@dataclass(frozen=True)
class ImageInput:
    """One image of a request: its bytes, a CLIP embedding, or what was wrong with it already."""

    content: bytes | tuple[float, ...] | ServiceError
    file_name: str | None = None


@dataclass(frozen=True)
class ImageOutcome:
    """Captions or an error for one image."""

    file_name: str | None
    image: ImageFacts | None = None
    answer: ImageCaptions | None = None
    error: ServiceError | None = None
    read_s: float = 0.0


@dataclass(frozen=True)
class CaptionTask:
    """What all images of one request have in common.

    Args:
        deadline: time.monotonic() by which every image must be answered.
    """

    options: CaptionOptions
    request_id: Hashable
    deadline: float


class Captioning:
    """Captions the images of a request side by side.

    Args:
        pool: its threads decode images; their number bounds the memory that decoding takes.
        on_rejected: called with the problem type of each image that does not reach the engine.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        preprocess: Preprocess,
        limits: ImageLimits,
        pool: Executor,
        on_rejected: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.limits = limits
        self.pool = pool
        self.on_rejected = on_rejected

    async def caption(
        self, inputs: Sequence[ImageInput], task: CaptionTask, *, first_place: Places
    ) -> list[ImageOutcome]:
        """One outcome for each image, in order; cancelling it takes the images out of the engine.

        Args:
            first_place: the one place that was reserved before the body was read.

        Raises:
            ServiceError: the engine has no places for the rest of the images.
        """
        more = len(inputs) - 1
        with self._reserve(more) if more else contextlib.nullcontext(first_place) as more_places:
            async with asyncio.TaskGroup() as group:
                places = [first_place, *[more_places] * more]
                running = [
                    group.create_task(self._caption_one(image, task, place))
                    for image, place in zip(inputs, places, strict=True)
                ]
            return [done.result() for done in running]

    def reserve_one(self) -> Places:
        """A place for a request whose body is not read yet; raises ServiceError when there is none."""
        return self._reserve(1)

    def _reserve(self, count: int) -> Places:
        try:
            return self.engine.reserve(count)
        except EngineError as error:
            raise service_error(error) from error

    async def _caption_one(self, image: ImageInput, task: CaptionTask, places: Places) -> ImageOutcome:
        started = time.perf_counter()
        try:
            pixels, facts = await self._read(image, task)
        except ServiceError as error:
            self.on_rejected(error.type)
            return ImageOutcome(image.file_name, error=error)
        outcome = ImageOutcome(image.file_name, image=facts, read_s=time.perf_counter() - started)
        return await self._answer(outcome, pixels, task, places)

    async def _read(self, image: ImageInput, task: CaptionTask) -> tuple[Tensor, ImageFacts | None]:
        if isinstance(image.content, ServiceError):
            raise image.content
        if isinstance(image.content, tuple):
            return embedding_tensor(image.content), None
        with_request_id = copy_context().run  # in what the thread logs
        reading = asyncio.get_running_loop().run_in_executor(
            self.pool, with_request_id, self._read_pixels, image.content
        )
        try:
            async with asyncio.timeout(task.deadline - time.monotonic()):
                return await reading
        except TimeoutError as error:
            raise DeadlineExceededError("the image was not decoded in time; the service is busy") from error

    def _read_pixels(self, data: bytes) -> tuple[Tensor, ImageFacts]:
        return read_pixels(data, limits=self.limits, preprocess=self.preprocess)

    async def _answer(
        self, outcome: ImageOutcome, pixels: Tensor, task: CaptionTask, places: Places
    ) -> ImageOutcome:
        try:
            future = self.engine.submit(
                pixels, task.options, places=places, request_id=task.request_id, deadline=task.deadline
            )
            answer = await asyncio.wrap_future(future)
        except (EngineError, OptionError) as error:
            return replace(outcome, error=service_error(error))
        return replace(outcome, answer=answer)


def service_error(error: EngineError | OptionError) -> ServiceError:
    """What a caller is told of an engine's error."""
    match error:
        case OptionError():
            return invalid_option(error)
        case engine_errors.QueueFullError():
            return QueueFullError(str(error), retry_after_s=error.retry_after_s)
        case engine_errors.DeadlineExceededError():
            return DeadlineExceededError("the captions were not ready in time; the service is busy")
        case engine_errors.InvalidInputError():
            return InvalidEmbeddingError(str(error))
        case engine_errors.EngineStoppedError():
            return StoppingError("the service is stopping; send the request again later")
        case engine_errors.EngineDeadError():
            return EngineUnavailableError("the captioning engine is not running; the service needs a restart")
        case _:
            return CaptioningFailedError("the model failed on this image; the service's log has the reason")


def embedding_tensor(values: tuple[float, ...]) -> Tensor:
    """A posted CLIP embedding as the engine takes it: a unit vector."""
    vector = torch.tensor(values, dtype=torch.float32)
    length = float(vector.norm())
    if not math.isfinite(length) or length == 0.0:
        raise InvalidEmbeddingError(
            "the embedding has no direction: its numbers must be finite and not all zero"
        )
    return vector / length
