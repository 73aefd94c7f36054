"""From posted images to results: read in bounded threads, captioned in the engine, errors kept per image."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from models.generation import OptionError
from models.preprocess import Preprocess
from service.embeddings import embedding_tensor
from service.engine import errors as engine_errors
from service.engine.engine import Engine, Places
from service.engine.errors import EngineError
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions, ImageScores, StageTimings
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
from service.images import ImageFacts, ImageLimits, read_pixels, sha256_of
from service.option_reading import invalid_option
from service.repeats import Repeat, Repeats

T = TypeVar("T")
Submit: TypeAlias = Callable[..., Future[Any]]
Written: TypeAlias = Mapping[int, list[int]]
"""Token ids so far of each caption that still grows, by its index; of a beam its best one, as 0."""
LATE = "the captions were not ready in time; the service is busy"
LATE_ANSWER_S = 0.5
"""What the engine's own answer to a late image may take; no request waits longer for work of another."""
NO_TIME = StageTimings(0.0, 0.0, 0.0, 0.0)


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


OneImage: TypeAlias = Callable[[ImageInput, float, Places], Coroutine[Any, Any, ImageOutcome]]


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
        repeats: what is known of images that were posted before; of this model, as the engine is.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        preprocess: Preprocess,
        limits: ImageLimits,
        pool: Executor,
        on_rejected: Callable[[str], None],
        repeats: Repeats[ImageOutcome],
    ) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.limits = limits
        self.pool = pool
        self.on_rejected = on_rejected
        self.repeats = repeats

    async def caption(
        self, inputs: Sequence[ImageInput], task: CaptionTask, *, places: Places
    ) -> list[ImageOutcome]:
        """One outcome for each image, in order; cancelling it takes the images out of the engine.

        Args:
            places: one for each image.
        """
        work = partial(self._repeatable, options=task.options, submit=self._captions(task))
        return await self._each(inputs, work, task.deadline, places=places)

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
        work = partial(self._one, submit=submit)
        return await self._each(inputs, work, task.deadline, places=places)

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
        working = asyncio.ensure_future(self._one(image, task.deadline, places, submit=submit))
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
        self, inputs: Sequence[ImageInput], work: OneImage, deadline: float, *, places: Places
    ) -> list[ImageOutcome]:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(work(image, deadline, places)) for image in inputs]
        return [done.result() for done in running]

    async def _repeatable(
        self, image: ImageInput, deadline: float, places: Places, *, options: CaptionOptions, submit: Submit
    ) -> ImageOutcome:
        """As _one, where the same file with the same options may be on its way or have been answered."""
        if not isinstance(image.content, bytes) or not options.is_repeatable or not self.repeats.is_on:
            return await self._one(image, deadline, places, submit=submit)
        sha256 = await self._in_pool(sha256_of, image.content)
        key = sha256, replace(options, model=None)

        async def compute() -> ImageOutcome:
            with places.split() as own:  # the work may outlast this request
                return _slim(await self._one(image, deadline, own, submit=submit, sha256=sha256))

        while True:
            try:
                async with asyncio.timeout(deadline + LATE_ANSWER_S - time.monotonic()):
                    outcome, repeat = await self.repeats.get(key, compute)
            except TimeoutError:
                return ImageOutcome(image.file_name, error=DeadlineExceededError(LATE))
            is_late = isinstance(outcome.error, DeadlineExceededError)
            if repeat == "shared" and is_late and time.monotonic() < deadline:
                continue  # whoever asked first had less time
            return _repeated(outcome, repeat, file_name=image.file_name)

    async def _one(
        self,
        image: ImageInput,
        deadline: float,
        places: Places,
        *,
        submit: Submit,
        sha256: str | None = None,
    ) -> ImageOutcome:
        started = time.perf_counter()
        try:
            pixels, facts = await self._read(image, deadline, sha256=sha256)
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

    async def _read(
        self, image: ImageInput, deadline: float, *, sha256: str | None
    ) -> tuple[Tensor, ImageFacts | None]:
        if isinstance(image.content, ServiceError):
            raise image.content
        if isinstance(image.content, tuple):
            return embedding_tensor(image.content), None
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._in_pool(self._read_pixels, image.content, sha256)
        except TimeoutError as error:
            raise DeadlineExceededError("the image was not decoded in time; the service is busy") from error

    async def _in_pool(self, work: Callable[..., T], *arguments: Any) -> T:
        with_request_id = copy_context().run  # in what the thread logs
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, partial(with_request_id, work, *arguments))

    def _read_pixels(self, data: bytes, sha256: str | None) -> tuple[Tensor, ImageFacts]:
        return read_pixels(data, limits=self.limits, preprocess=self.preprocess, sha256=sha256)


def _slim(outcome: ImageOutcome) -> ImageOutcome:
    """Without the embedding, which keeps the memory of a whole batch."""
    return replace(outcome, answer=outcome.answer and replace(outcome.answer, embedding=None))


def _repeated(outcome: ImageOutcome, repeat: Repeat, *, file_name: str | None) -> ImageOutcome:
    """The outcome for another who posted the same file; one that was kept has cost no time."""
    outcome = replace(outcome, file_name=file_name)
    if repeat != "kept" or outcome.answer is None:
        return outcome
    return replace(outcome, answer=replace(outcome.answer, timings=NO_TIME), read_s=0.0)


def service_error(error: EngineError | OptionError) -> ServiceError:
    """What a caller is told of an engine's error."""
    match error:
        case OptionError():
            return invalid_option(error)
        case engine_errors.QueueFullError():
            return QueueFullError(str(error), retry_after_s=error.retry_after_s)
        case engine_errors.DeadlineExceededError():
            return DeadlineExceededError(LATE)
        case engine_errors.InvalidInputError():
            return InvalidEmbeddingError(str(error))
        case engine_errors.EngineStoppedError():
            return StoppingError("the service is stopping; send the request again later")
        case engine_errors.EngineDeadError():
            return EngineUnavailableError("the captioning engine is not running; the service needs a restart")
        case _:
            return CaptioningFailedError("the model failed on this image; the service's log has the reason")
