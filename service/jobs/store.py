"""The artifact store: a folder or a bucket that holds datasets, jobs and their results. It is the truth."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from service.errors import CommandError, StoreUnavailableError

_PART_BYTES = 8 * 1024 * 1024
_MOST_LOGGED = 1000
_UNFINISHED = re.compile(r"#\d+$")
"""How obstore names a file in a folder while it writes it; it lists no such file."""

_RETRY: Any = {"retry_timeout": timedelta(seconds=30)}
"""A bucket that hangs is given up after this time, by obstore's default after 181 s: requests wait for it."""

_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*://[^\s"]+')

log = logging.getLogger("semicap.store")


class ArtifactStore:
    """Objects by key; every write is whole or not at all."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @classmethod
    def open(cls, location: str) -> "ArtifactStore":
        """The store at a folder (made when missing) or a bucket's URL, with credentials of the environment.

        Raises:
            CommandError: neither; the message names the setting.
        """
        try:
            if "://" not in location:
                return cls(LocalStore(Path(location).resolve(), automatic_cleanup=True, mkdir=True))
            return cls(from_url(location, retry_config=_RETRY))
        except (BaseError, OSError, ValueError) as error:
            raise CommandError(
                "SEMICAP_STORE_URL is neither a folder nor a bucket that can be opened: "
                f"{_without_url(error, location)}"
            ) from error

    @classmethod
    def reading(cls, location: str) -> "ArtifactStore":
        """The same for who only reads: a folder that is not there is an empty store, and is not made."""
        is_missing = "://" not in location and not Path(location).is_dir()
        return cls(MemoryStore()) if is_missing else cls.open(location)

    def get(self, key: str) -> bytes | None:
        """The object, or None."""
        try:
            with _failures(key):
                return bytes(obstore.get(self._objects, key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Writes the object in place of what was there."""
        with _failures(key):
            obstore.put(self._objects, key, data, use_multipart=False)

    def create(self, key: str, data: bytes) -> bool:
        """Writes the object where there is none; whether this data is there now.

        Asked again, after an answer that was lost, a bucket says of what it has written that it was there.
        """
        try:
            with _failures(key):
                obstore.put(self._objects, key, data, mode="create", use_multipart=False)
        except FileExistsError:
            return self.get(key) == data
        return True

    def write(self, key: str, parts: Iterable[bytes]) -> int:
        """Streams an object of any length; it appears when all of it is there. Returns its bytes."""
        written, waiting = 0, bytearray()
        with _failures(key), obstore.open_writer(self._objects, key, buffer_size=_PART_BYTES) as file:
            for part in parts:
                written += len(part)
                waiting += part
                if len(waiting) >= _PART_BYTES:
                    file.write(bytes(waiting))
                    waiting.clear()
            file.write(bytes(waiting))
        return written

    def stream(self, key: str) -> Iterator[bytes] | None:
        """The object in pieces, or None."""
        try:
            with _failures(key):
                found = obstore.get(self._objects, key)
        except FileNotFoundError:
            return None
        return (bytes(piece) for piece in found.stream(min_chunk_size=64 * 1024))

    def has(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Bytes of the object, or None."""
        try:
            with _failures(key):
                return int(obstore.head(self._objects, key)["size"])
        except FileNotFoundError:
            return None

    def modified(self, key: str) -> datetime | None:
        """When the object was last written, or None."""
        try:
            with _failures(key):
                return obstore.head(self._objects, key)["last_modified"]
        except FileNotFoundError:
            return None

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a prefix, sorted."""
        with _failures(prefix):
            batches = obstore.list(self._objects, prefix, chunk_size=1000)
            return sorted(entry["path"] for batch in batches for entry in batch)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a prefix, sorted."""
        with _failures(prefix):
            found = obstore.list_with_delimiter(self._objects, prefix)["common_prefixes"]
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def path(self, key: str) -> Path | None:
        """Where the object lies on this machine; None where the store is a bucket."""
        prefix = self._objects.prefix if isinstance(self._objects, LocalStore) else None
        return None if prefix is None else Path(prefix) / key

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; one that is not there is no error."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError), _failures(key):
                obstore.delete(self._objects, key)

    def drop_unfinished(self, age: timedelta) -> int:
        """Deletes what killed writers left in a folder that long ago; how many files. A bucket shows none."""
        if (root := self.path("")) is None:
            return 0
        oldest, count = time.time() - age.total_seconds(), 0
        for folder, _, names in os.walk(root):
            for path in (Path(folder, name) for name in names if _UNFINISHED.search(name)):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                        count += 1
        return count


@contextlib.contextmanager
def _failures(key: str) -> Iterator[Any]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(key) from error
    except (AlreadyExistsError, FileExistsError) as error:
        raise FileExistsError(key) from error
    except (BaseError, OSError) as error:
        log.error("the artifact store failed at %s: %s", key, _first_line(error))
        raise StoreUnavailableError(
            f"the artifact store failed at {key}; the log of the service has the reason"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:_MOST_LOGGED]


def _without_url(error: Exception, location: str) -> str:
    """The reason without a URL, which may hold a password, written as it was given or otherwise."""
    scheme, is_url, _ = location.partition("://")
    reason = _first_line(error)
    return _URL.sub(f"{scheme}://…", reason.replace(location, f"{scheme}://…")) if is_url else reason
