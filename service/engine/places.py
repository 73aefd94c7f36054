"""Places in the engine that are held before there is an image for them."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.engine.results import Priority


class Places:
    """Reserved places in the engine; a context manager that gives back what was not used."""

    def __init__(self, count: int, priority: Priority, give_back: Callable[[int], None]) -> None:
        self.left = count
        self.priority = priority
        self._give_back = give_back

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> None:
        """Uses one place; the engine calls this."""
        if self.left < 1:
            raise ValueError("no place is left; reserve as many as there are images")
        self.left -= 1

    def split(self) -> "Places":
        """One of these places as one of its own, for work that may outlast the request."""
        self.take()
        return Places(1, self.priority, self._give_back)

    def add(self, more: "Places") -> None:
        """Takes over the places of another reservation in the same engine."""
        self.left += more.left
        more.left = 0

    def release(self) -> None:
        """Gives back what is left; safe to call twice."""
        left, self.left = self.left, 0
        if left:
            self._give_back(left)
