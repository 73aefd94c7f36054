"""The real application on a port of its own, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

_START_LIMIT_S = 60
_STOP_LIMIT_S = 30


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The address of `app` while it runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_for_start(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_STOP_LIMIT_S)
    assert not thread.is_alive(), f"the service did not stop within {_STOP_LIMIT_S} s"


def _wait_for_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while not server.started:
        assert thread.is_alive(), "the service ended while it started"
        assert time.monotonic() < deadline, f"the service did not start within {_START_LIMIT_S} s"
        time.sleep(0.05)
