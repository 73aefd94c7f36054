"""`semicap serve` as a real process: a signal ends it without losing a request or leaving a child."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue

import pytest

from tests.integration.service_process import Service
from tests.service import pictures

STOP_S = 30
PHOTO = pictures.encoded(pictures.cat(400), "JPEG")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def service(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Service]:
    """A service that the test may end."""
    running = Service(tiny_checkpoint, tmp_path / "data")
    yield running
    running.end()


def request_head(content_length: int) -> bytes:
    lines = (
        "POST /v1/captions HTTP/1.1",
        "Host: x",
        "Content-Type: image/jpeg",
        f"Content-Length: {content_length}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def half_sent(service: Service) -> socket.socket:
    """A connection whose request has its head and the beginning of its body at the service."""
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(request_head(len(PHOTO)) + PHOTO[:1000])
    time.sleep(0.3)
    return connection


def test_sigterm_under_load_answers_every_accepted_request_and_exits_0(service: Service) -> None:
    asked, answers = threading.Semaphore(0), Queue[int]()

    def client() -> None:
        while True:
            connection = service.connect()
            try:
                connection.connect()
            except OSError:
                return  # the listener is closed
            try:
                connection.request("POST", "/v1/captions?num_beams=16", PHOTO, {"Content-Type": "image/jpeg"})
                asked.release()
                answers.put(connection.getresponse().status)
            except OSError:
                pass  # the listener closed while the connection waited in its backlog: never accepted
            finally:
                connection.close()

    clients = [threading.Thread(target=client) for _ in range(12)]
    for one in clients:
        one.start()
    for _ in range(60):
        asked.acquire()
    with half_sent(service) as uploading:
        children = service.children()
        service.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        uploading.sendall(PHOTO[1000:])
        upload_answer = b"".join(iter(lambda: uploading.recv(65536), b""))
    assert service.process.wait(STOP_S) == 0, "".join(service.log)
    for one in clients:
        one.join(STOP_S)
    statuses = [answers.get() for _ in range(answers.qsize())]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 48
    assert service.answered_requests() == len(statuses) + 1
    assert upload_answer.startswith(b"HTTP/1.1 200"), upload_answer[:200]
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_it_survives_sixty_megabytes_and_a_second_interrupt_ends_it_at_once(service: Service) -> None:
    status, body = service.ask("POST", "/v1/captions", bytes(60 * 1024 * 1024))
    assert (status, json.loads(body)["type"]) == (413, "urn:semicap:problem:request-too-large")
    with closing(service.connect()) as connection:
        chunks = (bytes(1024 * 1024) for _ in range(60))
        connection.request(
            "POST", "/v1/captions", chunks, {"Content-Type": "image/jpeg"}, encode_chunked=True
        )
        assert connection.getresponse().status == 413
    assert service.ask("POST", "/v1/captions", PHOTO)[0] == 200

    with half_sent(service):
        service.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(2) == 130
