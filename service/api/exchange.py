"""One request for captions, from the place that it holds before its body is read to its answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from service.api.clients import while_client_waits
from service.api.dependencies import Parts
from service.api.inputs import InputLimits
from service.captioning import CaptionTask, ImageInput, ImageOutcome, ScoreTask, Written
from service.engine.options import CaptionOptions
from service.errors import RequestTimeoutError
from service.registry import ServedModel
from service.serving import Bound, Place

T = TypeVar("T")


@dataclass(frozen=True)
class Answered:
    """What became of a request's images, and when."""

    outcomes: Sequence[ImageOutcome]
    model: ServedModel
    body_s: float
    total_s: float


class CaptionStream:
    """What is written of one image's captions, then its outcome; closing takes it out of the engine."""

    def __init__(self, first: Written | ImageOutcome, rest: AsyncGenerator[Written | ImageOutcome]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[Written | ImageOutcome]:
        yield self._first
        async for event in self._rest:
            yield event

    async def aclose(self) -> None:
        await self._rest.aclose()


class Exchange:
    """Reads a request's body in time, then has its images captioned or scored while the client waits."""

    def __init__(self, request: Request, parts: Parts, place: Place) -> None:
        self._request = request
        self._parts = parts
        self._place = place
        self._bound: Bound | None = None
        self._started = time.perf_counter()
        self._body_s = 0.0

    async def read(self, reader: Callable[[Request, InputLimits], Awaitable[T]]) -> T:
        """The body as a reader gives it.

        Raises:
            RequestTimeoutError: it came too slowly.
            ServiceError: the reader's own.
        """
        try:
            return await read_in_time(self._request, self._parts, reader)
        finally:
            self._body_s = time.perf_counter() - self._started

    @property
    def model(self) -> ServedModel:
        """The version that answers this request, from when it is bound."""
        return self._parts.model if self._bound is None else self._bound.serving.model

    def bind(self, num_images: int) -> ServedModel:
        """Decides for the version that answers now, for all of the request's images.

        Raises:
            ServiceError: the engine has no places for so many.
        """
        return self._bind(num_images).serving.model

    async def captions(self, images: Sequence[ImageInput], options: CaptionOptions) -> Answered:
        """Captions of all images; raises ServiceError where there can be none."""
        bound, task = self._bind(len(images)), self._task(options)
        work = bound.serving.captioning.caption(images, task, places=bound.places)
        return self.answered(await while_client_waits(self._request, work))

    async def scores(self, images: Sequence[ImageInput], texts: Sequence[str]) -> Answered:
        """How well all texts fit all images; raises ServiceError where nothing can be said."""
        bound = self._bind(len(images))
        task = ScoreTask(tuple(texts), self._request.state.request_id, self._deadline())
        work = bound.serving.captioning.score(images, task, places=bound.places)
        return self.answered(await while_client_waits(self._request, work))

    async def stream(self, image: ImageInput, options: CaptionOptions) -> CaptionStream:
        """What is written of one image's captions, then its outcome, once the first of it is there.

        Raises:
            ServiceError: there is nothing to stream, so that the answer still can have its own status.
        """
        bound, task = self._bind(1), self._task(options)
        events = bound.serving.captioning.stream(image, task, places=bound.places)
        first = await while_client_waits(self._request, anext(events))
        if isinstance(first, ImageOutcome) and first.error:
            raise first.error
        return CaptionStream(first, events)

    def answered(self, outcomes: Sequence[ImageOutcome]) -> Answered:
        """The outcomes with what this request took so far."""
        total_s = time.perf_counter() - self._started
        return Answered(outcomes, self.model, body_s=self._body_s, total_s=total_s)

    def _bind(self, num_images: int) -> Bound:
        self._bound = self._bound or self._place.bind(num_images)
        return self._bound

    def _task(self, options: CaptionOptions) -> CaptionTask:
        self.model.check_asked_for(self._parts.models.meant(options.model))
        return CaptionTask(options, request_id=self._request.state.request_id, deadline=self._deadline())

    def _deadline(self) -> float:
        return time.monotonic() + self._parts.settings.deadline_s


async def read_in_time(
    request: Request, parts: Parts, reader: Callable[[Request, InputLimits], Awaitable[T]]
) -> T:
    """The body as a reader gives it; raises RequestTimeoutError when it comes too slowly."""
    limit_s = parts.settings.body_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await reader(request, parts.input_limits)
    except TimeoutError as error:
        raise RequestTimeoutError(f"the request body did not arrive within {limit_s:g} s") from error


@contextmanager
def exchange(request: Request, parts: Parts) -> Iterator[Exchange]:
    """An exchange that gives back the place which it did not use.

    Raises:
        ServiceError: the engine has no place.
    """
    with parts.models.switch.reserve() as place:
        yield Exchange(request, parts, place)
