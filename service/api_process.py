"""`semicap api`: the model, a listening socket, and the server."""

import os
import socket

from service.api.uploading import spool_forms
from service.errors import CommandError
from service.jobs.model_use import models_of_jobs
from service.jobs.store import ArtifactStore
from service.listening import PortError, listen
from service.log import configure_logging
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry
from service.server import run_server
from service.serving import Handover
from service.settings import Settings


def run_api(settings: Settings, *, socket_fd: int | None, ready_fd: int | None) -> int:
    """Serves until a signal comes; the exit status.

    Args:
        socket_fd: a listening socket that a supervisor keeps over restarts; None opens one.
        ready_fd: gets one byte when requests are answered.

    Raises:
        CommandError: there is no such model, device or address.
    """
    configure_logging(level=settings.log_level, format=settings.log_format)
    spool_forms(settings)
    store = ArtifactStore.open(settings.store_location)
    registry = ModelRegistry(store, settings.model_cache, used=lambda: models_of_jobs(store))
    model = Handover(load_chosen(registry, settings)[0])
    try:
        listener = (
            listen(settings.host, settings.port) if socket_fd is None else socket.socket(fileno=socket_fd)
        )
    except PortError as error:
        raise CommandError(str(error)) from error
    return run_server(
        settings,
        model,
        registry=registry,
        listener=listener,
        on_started=lambda: None if ready_fd is None else _say_ready(ready_fd),
    )


def _say_ready(ready_fd: int) -> None:
    os.write(ready_fd, b"1")
    os.close(ready_fd)
