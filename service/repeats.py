"""Images that come again: work on the same one is shared while it runs and remembered for a while after."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

Result = TypeVar("Result")
Repeat = Literal["computed", "shared", "kept"]


@dataclass
class _Running(Generic[Result]):
    """Work that somebody waits for."""

    task: "asyncio.Task[Result]"
    waiting: int = 0


class Repeats(Generic[Result]):
    """Results by key, each computed once; all calls come from one event loop.

    Args:
        max_entries: results kept, those used last; 0 shares and keeps nothing.
        is_kept: whether a result is worth keeping; an error is not.
        on_answer: told for each call: computed, shared with work in progress, or kept from before.
    """

    def __init__(
        self,
        max_entries: int,
        *,
        is_kept: Callable[[Result], bool],
        on_answer: Callable[[Repeat], object],
    ) -> None:
        self._max_entries = max_entries
        self._is_kept = is_kept
        self._on_answer = on_answer
        self._kept: OrderedDict[Hashable, Result] = OrderedDict()
        self._running: dict[Hashable, _Running[Result]] = {}

    @property
    def is_on(self) -> bool:
        return self._max_entries > 0

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[Result]]) -> tuple[Result, Repeat]:
        """The result for a key, and where it is from.

        A caller that is cancelled leaves the work to those who wait with it; the last of them ends it.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            self._on_answer("kept")
            return self._kept[key], "kept"
        running = self._running.get(key)
        repeat: Repeat = "computed" if running is None else "shared"
        running = running or self._start(key, compute)
        self._on_answer(repeat)
        running.waiting += 1
        try:
            return await asyncio.shield(running.task), repeat
        finally:
            running.waiting -= 1
            if not running.waiting:
                self._forget(key, running)
                running.task.cancel()

    def _start(self, key: Hashable, compute: Callable[[], Awaitable[Result]]) -> _Running[Result]:
        running = _Running(asyncio.ensure_future(_awaited(compute)))
        self._running[key] = running
        running.task.add_done_callback(partial(self._ended, key, running))
        return running

    def _ended(self, key: Hashable, running: _Running[Result], task: "asyncio.Task[Result]") -> None:
        self._forget(key, running)
        if task.cancelled() or task.exception() is not None or not self._is_kept(task.result()):
            return
        self._kept[key] = task.result()
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def _forget(self, key: Hashable, running: _Running[Result]) -> None:
        """A key whose work has ended, or is being cancelled, is computed anew for whoever comes next."""
        if self._running.get(key) is running:
            del self._running[key]


async def _awaited(compute: Callable[[], Awaitable[Result]]) -> Result:
    return await compute()
