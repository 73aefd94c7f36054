"""A real broker for tests: the embedded one, in a folder of its own."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from service.supervision.broker import embedded_broker
from service.supervision.child import Child

START_S = 30


class RunningBroker:
    """The embedded broker under a test's control."""

    def __init__(self, child: Child, url: str) -> None:
        self.child = child
        self.url = url

    def start(self) -> None:
        """Starts it, again if it was killed, and waits until it answers."""
        end = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < end, "the broker does not start"
            self.child.tend()
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9"""
        self.child.kill()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It takes connections and answers none, until the block ends."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _pid(self) -> int:
        with redis.Redis.from_url(self.url) as client:
            return int(client.info("server")["process_id"])

    def flush(self) -> None:
        """Loses everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False


@contextmanager
def running_broker(folder: Path) -> Iterator[RunningBroker]:
    """A broker that runs until the block ends."""
    lifeline, held = os.pipe()
    with embedded_broker(folder) as (program, url):
        broker = RunningBroker(Child(program, lifeline=lifeline), url)
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()
            os.close(held)
            os.close(lifeline)
