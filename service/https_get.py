"""One GET over TLS to an address that was chosen before: no look-up, no proxy, no redirect of its own."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11

from service import release

_MAX_HEADER_BYTES = 16 * 1024
_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 3.0
_MAX_ADDRESSES = 3


class GetError(OSError):
    """The connection or the answer failed; the message may be shown to a caller."""


@dataclass(frozen=True)
class Target:
    """What is asked for, and where.

    Args:
        host: name in the certificate and the request.
        path: with the query, percent-encoded.
        addresses: tried in order.
    """

    host: str
    port: int
    path: str
    addresses: Sequence[str]


class Answer:
    """The head of an answer, and its body as it comes."""

    def __init__(self, head: h11.Response, connection: h11.Connection, reader: asyncio.StreamReader) -> None:
        self.status = head.status_code
        self._headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        self._connection = connection
        self._reader = reader

    def header(self, name: str) -> str:
        """The value of a header, empty where there is none."""
        return self._headers.get(name.lower(), "").strip()

    async def body(self) -> AsyncIterator[bytes]:
        """The body's bytes.

        Raises:
            GetError: it ends before it is whole.
        """
        while not isinstance(event := await _next_event(self._connection, self._reader), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise GetError("the connection ended before the answer was whole")
            yield bytes(event.data)


@asynccontextmanager
async def get(target: Target, tls: ssl.SSLContext) -> AsyncIterator[Answer]:
    """The answer to one GET; the connection ends with the context. Give it a time limit.

    Raises:
        GetError: no address took the connection, or what came was not HTTP.
    """
    reader, writer = await _connect(target, tls)
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)
        writer.write(_request(connection, target))
        head: object = None
        while not isinstance(head, h11.Response):
            head = await _next_event(connection, reader)
            if not isinstance(head, (h11.InformationalResponse, h11.Response)):
                raise GetError("the connection ended without an answer")
        yield Answer(head, connection, reader)
    finally:
        writer.transport.abort()


async def _connect(target: Target, tls: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for address in target.addresses[:_MAX_ADDRESSES]:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(
                    address, target.port, ssl=tls, server_hostname=target.host
                )
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or "the handshake failed"
            raise GetError(f"no secure connection to {target.host}: {reason}") from error
        except OSError:  # the time-out too
            continue
    raise GetError(f"{target.host} does not take connections")


def _request(connection: h11.Connection, target: Target) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    headers = {
        "Host": host if target.port == 443 else f"{host}:{target.port}",
        "User-Agent": f"semicap/{release()}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    request = h11.Request(method="GET", target=target.path, headers=list(headers.items()))
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK_BYTES))
    except h11.RemoteProtocolError as error:
        raise GetError("the answer is not HTTP, or it is cut off") from error
    except OSError as error:
        raise GetError("the connection broke") from error
    return event
