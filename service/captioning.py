"""From posted images to results: read in bounded threads, captioned in the engine, errors kept per image."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.generation import OptionError
from models.preprocess import Preprocess
from service.engine import errors as engine_errors
from service.engine.engine import Engine, Places
from service.engine.errors import EngineError
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions, ImageScores
from service.engine.work import Texts, TokenListener
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

Submit: TypeAlias = Callable[..., Future[Any]]
Written: TypeAlias = Mapping[int, list[int]]
"""Token ids so far of each caption that still grows, by its index; of a beam its best hypothesis, as 0."""


@dataclass(frozen=True)
class ImageInput:
    """One image of a request: its bytes, a CLIP embedding, or what was wrong with it already."""

    content: bytes | tuple[float, ...] | ServiceError
    file_name: str | None = None


@dataclass(frozen=True)
class ImageOutcome:
    """Captions, scores of given texts, or an error for one image."""

    file_name: str | None
    image: ImageFacts | None = None
    answer: ImageCaptions | None = None
    scores: ImageScores | None = None
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


@dataclass(frozen=True)
class ScoreTask:
    """Texts to score against all images of one request; otherwise as CaptionTask."""

    texts: tuple[str, ...]
    request_id: Hashable
    deadline: float


class Captioning:
    """Captions or scores the images of a request side by side.

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
        self, inputs: Sequence[ImageInput], task: CaptionTask, *, places: Places
    ) -> list[ImageOutcome]:
        """One outcome for each image, in order; cancelling it takes the images out of the engine.

        Args:
            places: one for each image.
        """
        return await self._each(inputs, self._captions(task), task.deadline, places=places)

    async def score(
        self, inputs: Sequence[ImageInput], task: ScoreTask, *, places: Places
    ) -> list[ImageOutcome]:
        """As caption, of the similarities of given texts."""
        submit = partial(
            self.engine.submit_scores,
            texts=Texts(task.texts),
            request_id=task.request_id,
            deadline=task.deadline,
        )
        return await self._each(inputs, submit, task.deadline, places=places)

    async def stream(
        self, image: ImageInput, task: CaptionTask, *, places: Places
    ) -> AsyncGenerator[Written | ImageOutcome]:
        """What is written of one image's captions after each token, then its outcome.

        Closing it takes the image out of the engine. What a slow reader has not taken is at most one entry
        for each token of a caption.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Queue[Written | None] = asyncio.Queue()
        submit = self._captions(
            task, on_tokens=lambda tokens: loop.call_soon_threadsafe(written.put_nowait, tokens)
        )
        working = asyncio.ensure_future(self._one(image, submit, task.deadline, places))
        working.add_done_callback(lambda done: written.put_nowait(None))
        try:
            while (tokens := await written.get()) is not None:
                yield tokens
            yield working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _captions(self, task: CaptionTask, *, on_tokens: TokenListener | None = None) -> Submit:
        return partial(
            self.engine.submit,
            options=task.options,
            request_id=task.request_id,
            deadline=task.deadline,
            on_tokens=on_tokens,
        )

    async def _each(
        self, inputs: Sequence[ImageInput], submit: Submit, deadline: float, *, places: Places
    ) -> list[ImageOutcome]:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._one(image, submit, deadline, places)) for image in inputs]
        return [done.result() for done in running]

    async def _one(self, image: ImageInput, submit: Submit, deadline: float, places: Places) -> ImageOutcome:
        started = time.perf_counter()
        try:
            pixels, facts = await self._read(image, deadline)
        except ServiceError as error:
            self.on_rejected(error.type)
            return ImageOutcome(image.file_name, error=error)
        outcome = ImageOutcome(image.file_name, image=facts, read_s=time.perf_counter() - started)
        try:
            answer = await asyncio.wrap_future(submit(pixels, places=places))
        except (EngineError, OptionError) as error:
            return replace(outcome, error=service_error(error))
        if isinstance(answer, ImageScores):
            return replace(outcome, scores=answer)
        return replace(outcome, answer=answer)

    async def _read(self, image: ImageInput, deadline: float) -> tuple[Tensor, ImageFacts | None]:
        if isinstance(image.content, ServiceError):
            raise image.content
        if isinstance(image.content, tuple):
            return embedding_tensor(image.content), None
        with_request_id = copy_context().run  # in what the thread logs
        reading = asyncio.get_running_loop().run_in_executor(
            self.pool, with_request_id, self._read_pixels, image.content
        )
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await reading
        except TimeoutError as error:
            raise DeadlineExceededError("the image was not decoded in time; the service is busy") from error

    def _read_pixels(self, data: bytes) -> tuple[Tensor, ImageFacts]:
        return read_pixels(data, limits=self.limits, preprocess=self.preprocess)


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
