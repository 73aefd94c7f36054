"""Answers images whose deadline has passed at once, even while the model is busy with a batch."""

import heapq
import threading
import time

from service.engine.errors import DeadlineExceededError
from service.engine.work import Answer, fail


class DeadlineWatch:
    """A thread that sleeps until the next deadline and fails what is late."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Answer]] = []
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="semicap-deadlines", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what it watched is left as it is."""
        with self._changed:
            self._is_open = False
            self._changed.notify()

    def watch(self, future: Answer, *, deadline: float, number: int) -> None:
        """Fails the future when time.monotonic() passes the deadline.

        Args:
            number: differs for each future, so that equal deadlines can be ordered.
        """
        with self._changed:
            heapq.heappush(self._heap, (deadline, number, future))
            self._changed.notify()

    def _run(self) -> None:
        while (late := self._next_late()) is not None:
            fail(late, DeadlineExceededError("the captions were not ready before the deadline"))

    def _next_late(self) -> Answer | None:
        """Waits for the next future that is late; None when the watch has stopped."""
        with self._changed:
            while self._is_open:
                while self._heap and self._heap[0][2].done():
                    heapq.heappop(self._heap)
                left_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if left_s is not None and left_s <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left_s)
            return None
