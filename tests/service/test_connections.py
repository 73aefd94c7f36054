"""Connections that say nothing, or never the whole of it, end; others are none the worse for it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service import connections
from service.connections import BoundedProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
GIVEN_UP_S = 20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body, but answers /refused without it."""
    request = Request(scope, receive)
    body = b"" if scope["path"] == "/refused" else await request.body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


def run(work: Callable[[int], Awaitable[None]]) -> None:
    """Runs `work` with the port of a server."""

    async def all_of_it() -> None:
        config = uvicorn.Config(app, port=0, http=BoundedProtocol, lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        await work(server.servers[0].sockets[0].getsockname()[1])
        server.should_exit = True
        await serving

    asyncio.run(all_of_it())


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server ends the connection."""
    async with asyncio.timeout(GIVEN_UP_S):
        return await reader.read()


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("sent", [b"", b"GET / HT", REQUEST[:-2], REQUEST + b"GET / HTTP/1.1\r\n"])
def test_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answers = (await rest(reader)).count(b"HTTP/1.1 200")
        assert answers == sent.startswith(REQUEST)
        writer.close()

    run(work)


@pytest.mark.usefixtures("short_wait")
def test_body_that_trickles_after_the_answer_ends_the_connection() -> None:
    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.replace(b"/ ", b"/refused ").replace(b"10", b"100000"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        ended = asyncio.create_task(rest(reader))
        while not ended.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        await ended
        writer.close()

    run(work)


@pytest.mark.usefixtures("short_wait")
def test_slow_body_is_waited_for_longer_than_a_head() -> None:
    async def work(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert b"10 bytes" in await rest(reader)
        writer.close()

    run(work)


def test_connections_beyond_the_limit_are_closed_and_the_others_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)

    async def work(port: int) -> None:
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, extra = await asyncio.open_connection("127.0.0.1", port)
        assert await rest(reader) == b""
        reader, writer = first[0]
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, one in (*first, (reader, extra)):
            one.close()

    run(work)
