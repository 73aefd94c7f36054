"""Keeps children running until a signal comes, then stops them in order."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import structlog

from service.errors import WRONG_USE
from service.supervision.child import Child, Program

INTERRUPTED = 130

_POLL_S = 0.1

log = structlog.stdlib.get_logger("semicap.supervisor")


class Supervisor:
    """Runs the API first and the other programs beside it.

    Args:
        broker: started before all and stopped after all; None where it is somebody else's.
        api: its wrong use of a setting (status 2 before it was ready) ends everything with that status.
        workers: started once the API is ready, so that it answers sooner.
        is_ready: whether the API has been ready.
        on_stop: called when the end begins.
    """

    def __init__(
        self,
        *,
        broker: Program | None,
        api: Program,
        workers: Sequence[Program],
        is_ready: Callable[[], bool],
        on_stop: Callable[[], None],
    ) -> None:
        self._lifeline, self._held_end = os.pipe()
        self._broker = self._child(broker) if broker else None
        self._api = self._child(api)
        self._workers = [self._child(program) for program in workers]
        self._is_ready = is_ready
        self._on_stop = on_stop
        self._stop = threading.Event()
        self._interrupts = 0

    def run(self) -> int:
        """Returns the exit status when every child has ended."""
        status = os.EX_OK
        with self._signals():
            try:
                while not self._stop.wait(_POLL_S) and status != WRONG_USE:
                    status = self._tend()
            finally:
                interrupted = self._stop_children()
        return INTERRUPTED if interrupted else status

    def _tend(self) -> int:
        """Looks after each child; WRONG_USE when the API says that it can never start."""
        if self._broker:
            self._broker.tend()
        self._api.tend()
        is_ready = self._is_ready()
        if not is_ready and self._api.last_status == WRONG_USE:
            return WRONG_USE
        for worker in self._workers if is_ready else ():
            worker.tend()
        return os.EX_OK

    def _stop_children(self) -> bool:
        """Whether a second interrupt cut it short."""
        self._on_stop()
        in_order = [[self._api, *self._workers], [self._broker] if self._broker else []]
        for together in in_order:
            for child in together:
                child.terminate()
            self._await_end(together)
        for child in (child for together in in_order for child in together):
            child.kill()
        os.close(self._held_end)
        os.close(self._lifeline)
        return self._interrupts > 1

    def _await_end(self, children: Sequence[Child]) -> None:
        began = time.monotonic()
        while self._interrupts < 2 and any(
            child.is_running and time.monotonic() - began < child.program.stop_s for child in children
        ):
            time.sleep(_POLL_S)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
        self._stop.set()

    def _child(self, program: Program) -> Child:
        return Child(program, lifeline=self._lifeline)
