"""Photos read and decoded in threads, a bounded number ahead of whoever takes them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

_AHEAD = 4
"""Photos read ahead by each thread."""


def read_ahead(
    keys: Iterable[Key], read: Callable[[Key], Value], *, pool: ThreadPoolExecutor, threads: int
) -> Generator[tuple[Key, "Future[Value]"], None, None]:
    """Yields each key in order with the future of what `read` made of it; closing it cancels the rest."""
    waiting: deque[tuple[Key, Future[Value]]] = deque()
    try:
        for key in keys:
            waiting.append((key, pool.submit(read, key)))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()
