"""What `semicap serve` runs, and with which settings."""

import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import structlog

from service.errors import CommandError
from service.listening import listen
from service.settings import Settings
from service.supervision.broker import embedded_broker
from service.supervision.child import Program
from service.supervision.supervisor import Supervisor

LOCK_FILE = "serve.lock"

_STOP_GRACE_S = 10.0
"""What ending the process takes on top of draining."""

_COMMAND = (sys.executable, "-m", "service.cli")

log = structlog.stdlib.get_logger("semicap.serve")


def run_service(settings: Settings) -> int:
    """Runs broker, workers and API until a signal comes; the exit status.

    Raises:
        PortError: the address is taken or not ours.
        CommandError: the data folder is in use, or there is no broker for this system.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        host, port = listener.getsockname()[:2]
        log.info(
            "starting", address=f"{host}:{port}", note="it answers when this says listening, in half a minute"
        )
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        broker, url = None, settings.redis_url
        if url is None:
            stack.enter_context(only_user_of(settings.data_dir))
            broker, url = stack.enter_context(embedded_broker(settings.data_dir / "broker"))
        environment = _environment(settings, url)
        stop_s = settings.drain_s + _STOP_GRACE_S
        api = Program(
            "api",
            (*_COMMAND, "api", "--socket-fd", str(listener.fileno()), "--ready-fd", str(writable)),
            stop_s=stop_s,
            environment=environment,
            pass_fds=(listener.fileno(), writable),
        )
        return Supervisor(
            broker=broker,
            api=api,
            workers=_workers(settings, environment, stop_s=stop_s),
            is_ready=_Readiness(readable),
            on_stop=listener.close,
        ).run()


def _workers(settings: Settings, environment: Mapping[str, str], *, stop_s: float) -> list[Program]:
    """Those that caption and those that fine-tune; without any of the latter the former do both."""

    def program(name: str, *only: str) -> Program:
        return Program(name, (*_COMMAND, "worker", "--nice", *only), stop_s=stop_s, environment=environment)

    if not settings.finetune_workers:
        return [program("worker")] * settings.workers
    captioner = program("worker", "--only", "captions")
    tuner = program("finetune-worker", "--only", "finetunes")
    return [captioner] * settings.workers + [tuner] * settings.finetune_workers


class _Readiness:
    """Whether a byte came through a pipe."""

    def __init__(self, readable: int) -> None:
        self._readable = readable
        self._is_ready = False

    def __call__(self) -> bool:
        if not self._is_ready:
            try:
                self._is_ready = bool(os.read(self._readable, 1))
            except BlockingIOError:
                return False
        return self._is_ready


def _environment(settings: Settings, url: str) -> dict[str, str]:
    """What flags have changed, and threads that sleep while they wait: all share the processors."""
    environment = {
        "SEMICAP_REDIS_URL": url,
        "SEMICAP_DATA_DIR": str(settings.data_dir),
        "SEMICAP_OPEN_ACCESS": str(settings.open_access),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    if settings.checkpoint is not None:
        environment["SEMICAP_CHECKPOINT"] = str(settings.checkpoint)
    return environment


@contextmanager
def only_user_of(folder: Path) -> Iterator[None]:
    """Holds a data folder; raises CommandError when another process does, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise CommandError(
            f"the data folder {folder} cannot be used ({error.strerror or error}); "
            "name another one (SEMICAP_DATA_DIR)"
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"another semicap serve uses the data folder {folder}; "
                "name another one (SEMICAP_DATA_DIR), or share a broker (SEMICAP_REDIS_URL)"
            ) from error
        yield
