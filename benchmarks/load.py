"""Clients of an HTTP service: some that wait for each answer, and some that come on their own schedule."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Request:
    """What one client posts."""

    path: str
    content_type: str
    body: bytes


@dataclass
class Answers:
    """Seconds of each answer with status 200, how many were others, and the time of all of it."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    lasted_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.lasted_s if self.lasted_s else 0.0

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) if self.seconds else float("nan")

    def add(self, other: "Answers") -> None:
        self.seconds += other.seconds
        self.failed += other.failed
        self.lasted_s += other.lasted_s


async def post(port: int, request: Request, answers: Answers) -> None:
    """One request on a connection of its own."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = (
            f"POST {request.path} HTTP/1.1",
            "Host: x",
            "Connection: close",
            f"Content-Type: {request.content_type}",
            f"Content-Length: {len(request.body)}",
        )
        writer.write("\r\n".join((*lines, "", "")).encode() + request.body)
        answer = await reader.read()
    finally:
        writer.close()
    if answer.startswith(b"HTTP/1.1 200"):
        answers.seconds.append(time.perf_counter() - began)
    else:
        answers.failed += 1


async def closed_loop(
    port: int, request_of: Callable[[int], Request], *, clients: int, requests: int
) -> Answers:
    """So many clients, each with its next request as soon as it is answered, until all have been sent."""
    answers, numbers = Answers(), iter(range(requests))
    began = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            await post(port, request_of(number), answers)

    await asyncio.gather(*(client() for _ in range(clients)))
    answers.lasted_s = time.perf_counter() - began
    return answers


async def open_loop(
    port: int, request_of: Callable[[int], Request], *, rate: float, requests: int
) -> Answers:
    """Requests at exponential intervals, `rate` of them a second on average, whatever is answered."""
    rng = np.random.default_rng(0)
    answers = Answers()
    began = due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(requests):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(post(port, request_of(number), answers))
            due += float(rng.exponential(1 / rate))
    answers.lasted_s = time.perf_counter() - began
    return answers
