"""One supervised process: started, started again with growing pauses, stopped within a limit."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from service.supervision.leash import leashed

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A child that ran this long starts again without a pause worth the name."""

log = structlog.stdlib.get_logger("semicap.supervisor")


@dataclass(frozen=True)
class Program:
    """What to run.

    Args:
        stop_s: seconds from SIGTERM to SIGKILL.
        environment: added to the supervisor's own.
        before_start: called before each start with the number of failures in a row.
    """

    name: str
    command: tuple[str, ...]
    stop_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    before_start: Callable[[int], None] = lambda failures: None


class Child:
    """A program and the process that runs it."""

    def __init__(self, program: Program, *, lifeline: int) -> None:
        self.program = program
        self.last_status: int | None = None
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started = 0.0
        self._next_start = 0.0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status of the process that ran last, when it has ended."""
        return self.last_status if self._process is None else self._process.poll()

    def tend(self) -> None:
        """Starts what is not running once its pause is over; call it often."""
        if self._process is not None and self._process.poll() is not None:
            self._ended(self._process.returncode)
        if self._process is None and time.monotonic() >= self._next_start:
            self._start()

    def terminate(self) -> None:
        """Asks the process to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and returns when it is gone."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running:
            self._process.send_signal(number)

    def _start(self) -> None:
        self.program.before_start(self._failures)
        self._process = subprocess.Popen(
            leashed(self.program.command, lifeline=self._lifeline),
            env={**os.environ, **self.program.environment},
            pass_fds=(self._lifeline, *self.program.pass_fds),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is the supervisor's to pass on
        )
        self._started = time.monotonic()
        log.debug("child_started", child=self.program.name, pid=self._process.pid)

    def _ended(self, status: int) -> None:
        self.last_status = status
        self._process = None
        steady = time.monotonic() - self._started > STEADY_S
        self._failures = 1 if steady else self._failures + 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        self._next_start = time.monotonic() + pause_s
        log.warning("child_ended", child=self.program.name, status=status, starts_again_in_s=pause_s)
