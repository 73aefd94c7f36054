"""The keys that a running service takes: read from their file, and again soon after it has changed."""

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from service.keys import ApiKey, KeyFileError, KeyStore, id_of, is_key

CHECK_EVERY_S = 1.0
"""Seconds after which a revoked key is refused, at the latest."""

log = structlog.stdlib.get_logger("semicap.keys")


class KeyRing:
    """Keys by id. Once there was a key they are required until the process ends, even if their file is lost.

    Raises:
        KeyFileError: the file cannot be read at the start; later its last good state stays in force.
    """

    def __init__(self, store: KeyStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._checked = clock()
        self._seen = _signature(store.path)
        self._by_id = {key.id: key for key in store.all()}
        self._is_required = bool(self._by_id)

    @property
    def is_required(self) -> bool:
        """Whether requests need a key: as soon as one was made, and still when all are revoked."""
        self._refresh()
        return self._is_required

    def find(self, secret: str) -> ApiKey | None:
        """The key that was presented, unless it is unknown or revoked."""
        self._refresh()
        key = self._by_id.get(id_of(secret) or "")
        return key if key is not None and is_key(secret, key) and key.revoked is None else None

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < CHECK_EVERY_S:
            return
        self._checked = now
        try:
            signature = _signature(self._store.path)
            if signature != self._seen:
                self._by_id = {key.id: key for key in self._store.all()}
                self._is_required |= bool(self._by_id)
                self._seen = signature
                log.info("keys_read", count=len(self._by_id))
        except (OSError, KeyFileError) as error:
            log.error("keys_unreadable", error=str(error))


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
