"""A running service under more requests than it can answer, then ended by SIGTERM while they go on coming.

Requests arrive on their own schedule, as those of many people do, and do not wait for the answers to others.
Prints what was answered, how long it took, memory over time, and whether an accepted request was lost.

    python -m benchmarks.overload --seconds 120 --times 3
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

START_S = 900
STOP_S = 600
CALIBRATION_CLIENTS = 16
AFTER_SIGTERM_S = 2.0
MAX_OPEN = 4096
MEMORY_PARTS = 6
NO_ANSWER = 0


@dataclass
class Seen:
    """What the clients saw: a status and seconds for each answer, and the requests that nobody took."""

    answers: list[tuple[int, float]] = field(default_factory=list)
    not_taken: int = 0
    not_sent: int = 0

    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(status for status, _ in self.answers).items()))

    def seconds(self, status: int) -> list[float]:
        return sorted(seconds for one, seconds in self.answers if one == status)


class Service:
    """`semicap serve` on a port of its own, with its log in a file."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / "log"
        settings = {"SEMICAP_LOG_FORMAT": "json", "SEMICAP_DATA_DIR": str(folder), **environment}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve", "--port", "0"],
                stderr=log,
                env={**os.environ, **settings},
            )
        self.port = self._await_port()

    def _await_port(self) -> int:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r'"url": "http://127.0.0.1:(\d+)"', self.log.read_text()):
                return int(found[1])
            time.sleep(0.2)
        raise SystemExit(f"the service did not start: {self.log.read_text()[-2000:]}")

    def resident_mib(self) -> float:
        """Memory of the process that answers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (api,) = (pid for pid in children if b"\0api\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{api}/status").read_text())[0]) / 1024

    def answered(self) -> Counter[int]:
        """Statuses by the service's own log."""
        lines = [
            json.loads(line) for line in self.log.read_text().splitlines() if '"event": "request"' in line
        ]
        return Counter(line["status"] for line in lines)


def main() -> None:
    arguments = _arguments()
    environment = {
        "SEMICAP_MAX_QUEUED_IMAGES": str(arguments.queue),
        "SEMICAP_DEADLINE_S": str(arguments.deadline_s),
        "SEMICAP_REPEATED_IMAGES": "0",  # all requests post the same photo
    }
    environment["SEMICAP_MAX_IMAGES_PER_REQUEST"] = str(min(64, arguments.queue))
    if arguments.checkpoint:
        environment["SEMICAP_CHECKPOINT"] = arguments.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), environment)
        try:
            asyncio.run(_measure(service, arguments))
        finally:
            service.process.kill()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120, help="of overload")
    parser.add_argument(
        "--times", type=float, default=3, help="what arrives, in units of what can be answered"
    )
    parser.add_argument(
        "--calibration-s", type=float, default=20, help="seconds in which capacity is measured"
    )
    parser.add_argument("--queue", type=int, default=64, help="SEMICAP_MAX_QUEUED_IMAGES")
    parser.add_argument("--checkpoint", help="SEMICAP_CHECKPOINT, if not the model that comes along")
    parser.add_argument("--deadline-s", type=float, default=60, help="SEMICAP_DEADLINE_S")
    return parser.parse_args()


async def _measure(service: Service, arguments: argparse.Namespace) -> None:
    body, unhurried = _photo(), Seen()
    capacity = await _capacity(service.port, body, unhurried, seconds=arguments.calibration_s)
    rate = arguments.times * capacity
    print(
        f"capacity {capacity:.1f} images/s; now {rate:.1f} requests/s for {arguments.seconds:g} s", flush=True
    )
    seen, memory = Seen(), [service.resident_mib()]
    sampling = asyncio.create_task(_sample(service, memory))
    await _arrive(service.port, body, seen, rate=rate, seconds=arguments.seconds, after=lambda: None)
    sampling.cancel()
    ending = Seen()
    await _arrive(
        service.port,
        body,
        ending,
        rate=rate,
        seconds=2 * AFTER_SIGTERM_S,
        after=lambda: service.process.send_signal(signal.SIGTERM),
    )
    _print(seen, memory, capacity=capacity, queue=arguments.queue)
    exit_status = await asyncio.to_thread(service.process.wait, STOP_S)
    _print_end(ending, service, exit_status=exit_status, answers=_count(unhurried, seen, ending))


async def _capacity(port: int, body: bytes, seen: Seen, *, seconds: float) -> float:
    """Images a second for a few clients that always have a request open; the first fifth does not count."""
    counted_from = time.monotonic() + seconds / 5
    end = time.monotonic() + seconds
    at_start = 0

    async def client() -> None:
        nonlocal at_start
        while time.monotonic() < end:
            if time.monotonic() < counted_from:
                at_start = len(seen.answers)
            await _ask(port, body, seen)

    await asyncio.gather(*(client() for _ in range(CALIBRATION_CLIENTS)))
    if set(seen.statuses()) != {200}:
        raise SystemExit(f"without overload the answers were {seen.statuses()}")
    return (len(seen.answers) - at_start) / (time.monotonic() - counted_from)


async def _arrive(
    port: int, body: bytes, seen: Seen, *, rate: float, seconds: float, after: Callable[[], object]
) -> None:
    """Requests at exponential intervals; `after` is called halfway. Returns when all have ended."""
    rng = np.random.default_rng(0)
    running: set[asyncio.Task[None]] = set()
    began = due = time.monotonic()
    is_called = False
    while due < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if not is_called and due >= began + seconds / 2:
            after()
            is_called = True
        if len(running) < MAX_OPEN:
            task = asyncio.create_task(_ask(port, body, seen))
            running.add(task)
            task.add_done_callback(running.discard)
        else:
            seen.not_sent += 1
        due += float(rng.exponential(1 / rate))
    await asyncio.gather(*running)


async def _ask(port: int, body: bytes, seen: Seen) -> None:
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        seen.not_taken += 1
        return
    try:
        writer.write(_head(len(body)) + body)
        answer = await reader.read()
        status = int(answer.split(b" ", 2)[1]) if answer else NO_ANSWER
        seen.answers.append((status, time.monotonic() - began))
    except OSError:
        seen.answers.append((NO_ANSWER, time.monotonic() - began))
    finally:
        writer.close()


def _head(length: int) -> bytes:
    lines = ("POST /v1/captions HTTP/1.1", "Host: x", "Connection: close", "Content-Type: image/jpeg")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


async def _sample(service: Service, memory: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        memory.append(service.resident_mib())


def _photo() -> bytes:
    """A JPEG of 400 x 300 pixels, as large as a photo's thumbnail."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _print(seen: Seen, memory: list[float], *, capacity: float, queue: int) -> None:
    table = Table(title="overload")
    for column in ("answer", "requests", "median", "95th percentile", "slowest"):
        table.add_column(column, justify="right")
    for status, count in seen.statuses().items():
        seconds = seen.seconds(status)
        named = [
            f"{value:.2f} s" for value in (statistics.median(seconds), _quantile(seconds, 0.95), seconds[-1])
        ]
        table.add_row(str(status or "none"), str(count), *named)
    Console().print(table)
    print(f"a full queue of {queue} is {queue / capacity:.1f} s of work")
    print(f"connections refused: {seen.not_taken}; left out, {MAX_OPEN} being open: {seen.not_sent}")
    parts = " ".join(f"{statistics.mean(part):.0f}" for part in np.array_split(memory, MEMORY_PARTS))
    print(f"memory of the API in MiB: {memory[0]:.0f} at first, {max(memory):.0f} at most; by sixths {parts}")


def _print_end(ending: Seen, service: Service, *, exit_status: int, answers: int) -> None:
    logged = service.answered()
    print(f"SIGTERM under load: exit status {exit_status}; the clients saw {ending.statuses()}")
    print(
        f"requests in the service's log: {logged.total()}, answers that reached the clients: {answers}, "
        f"lost: {logged.total() - answers}"
    )


def _count(*all_seen: Seen) -> int:
    return sum(status != NO_ANSWER for seen in all_seen for status, _ in seen.answers)


def _quantile(seconds: list[float], share: float) -> float:
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


if __name__ == "__main__":
    main()
