"""The client of the command line before servers that refuse, or are none of ours."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.errors import CommandError
from service.jobs.client import JobClient

TIMEOUT_S = 30


@contextmanager
def answering(answer: bytes, *, after_bytes: int) -> Iterator[str]:
    """A server that reads so much of one request, answers and closes; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                connection.recv(after_bytes)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(TIMEOUT_S)


def http(status: str, body: bytes, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("200 OK", b"<html>It works!</html>"), "is not semicap"),
        (http("200 OK", b"\xff\xfe"), "is not semicap"),
        (http("301 Moved", b"", Location="https://photos.example/"), "names https://photos.example/"),
        (http("502 Bad Gateway", b"<html>no</html>"), "the service answered 502: <html>no</html>"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_what_is_not_the_service_is_one_clear_line(answer: bytes, said: str) -> None:
    with answering(answer, after_bytes=65536) as url, pytest.raises(CommandError, match=said):
        JobClient(url).ask("GET", "/v1/jobs/job-1")


def test_refusal_that_comes_before_the_whole_body_is_shown() -> None:
    refusal = http("401 Unauthorized", b'{"detail": "the request needs an API key"}')
    photos = (bytes(64 * 1024) for _ in range(1000))
    with answering(refusal, after_bytes=1024) as url, pytest.raises(CommandError, match="needs an API key"):
        JobClient(url).ask("POST", "/v1/datasets", body=photos)


def test_folder_of_an_address_may_have_any_name() -> None:
    with answering(http("200 OK", b"{}"), after_bytes=65536) as url:
        assert JobClient(f"{url}/fötos").ask("GET", "/v1/jobs") == {}
