"""A stream of images through the engine, kept full, results in the order of their completion."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor

from models.generation import OptionError
from service.engine.errors import InvalidInputError, QueueFullError
from service.engine.options import CaptionOptions
from service.engine.work import Answer

if TYPE_CHECKING:
    from service.engine.engine import Engine

Key = TypeVar("Key")
LONGEST_PAUSE_S = 1.0


class CaptionStream(Generic[Key]):
    """Iterates over (key, done future) of (key, image), with a bounded number of images in the engine."""

    def __init__(
        self,
        engine: "Engine",
        images: Iterable[tuple[Key, Tensor]],
        options: CaptionOptions,
        *,
        read_ahead: int,
        wanted: Callable[[Key, Tensor], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._images = iter(images)
        self._options = options
        self._read_ahead = read_ahead
        self._wanted = wanted
        self._request_id = object()
        self._pending: set[Answer] = set()
        self._done: SimpleQueue[tuple[Key, Answer]] = SimpleQueue()
        self._is_exhausted = False

    def __iter__(self) -> Iterator[tuple[Key, Answer]]:
        try:
            while True:
                self._fill()
                if not self._pending:
                    return
                key, future = self._done.get()
                self._pending.discard(future)
                yield key, future
        finally:
            for future in self._pending:
                future.cancel()

    def _fill(self) -> None:
        while not self._is_exhausted and len(self._pending) < self._read_ahead:
            try:
                self._submit_next()
            except QueueFullError as error:
                if self._pending:
                    return
                time.sleep(min(error.retry_after_s, LONGEST_PAUSE_S))

    def _submit_next(self) -> None:
        with self._engine.reserve(priority="bulk") as places:
            item = next(self._images, None)
            if item is None:
                self._is_exhausted = True
                return
            key, image = item
            try:
                future = self._engine.submit(
                    image,
                    self._options,
                    places=places,
                    request_id=self._request_id,
                    wanted=partial(self._wanted, key) if self._wanted else None,
                )
            except (InvalidInputError, OptionError) as error:
                future = Future()
                future.set_exception(error)
        self._pending.add(future)
        future.add_done_callback(lambda done: self._done.put((key, done)))
