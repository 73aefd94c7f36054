"""The API: uvicorn in this process, ended gracefully by a signal, at once by a second Ctrl-C."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from service.api.app import create_app
from service.connections import BoundedProtocol
from service.lifecycle import Lifecycle
from service.model_registry import ModelRegistry
from service.serving import Handover
from service.settings import Settings

REFUSING_S = 0.3
"""Seconds between refusing requests and closing connections, so that requests already sent get a 503."""

_KEEP_ALIVE_S = 5
_INTERRUPTED = 130

log = structlog.stdlib.get_logger("semicap.server")


class GracefulServer(uvicorn.Server):
    """Refuses new requests from the signal on, answers those in flight, and ends with status 0."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, *, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end, which would hide the exit status."""
        previous = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os._exit(_INTERRUPTED)
        self.lifecycle.stop()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.lifecycle.fatal_error is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping", drain_s=self.config.timeout_graceful_shutdown)
        self.lifecycle.stop()
        await asyncio.sleep(REFUSING_S)
        await super().shutdown(sockets)


def run_server(
    settings: Settings,
    model: Handover,
    *,
    registry: ModelRegistry,
    listener: socket.socket,
    on_started: Callable[[], None] = lambda: None,
) -> int:
    """Serves until a signal comes; the process's exit status.

    Args:
        registry: where other versions are that may take the model's place.
        on_started: called when requests are answered.
    """
    lifecycle = Lifecycle()
    app = create_app(settings, model, lifecycle=lifecycle, registry=registry)
    server = GracefulServer(server_config(app, settings), lifecycle, on_started=on_started)
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", model=model.id)
    server.run(sockets=[listener])
    if lifecycle.fatal_error is not None:
        log.error("engine_died", error=repr(lifecycle.fatal_error))
        return 1
    return 0 if server.started else 1


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
