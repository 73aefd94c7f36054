"""API keys: made, listed and revoked in one file of the data folder, which holds only their hashes."""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MAX_KEYS = 10_000

_SECRET = re.compile(r"semicap_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ID_BYTES = 6
_SECRET_BYTES = 32  # 256 random bits need no slow hash: nobody can try them all


class Scope(StrEnum):
    """What a key may be used for."""

    CAPTION = "caption"
    JOBS = "jobs"
    ADMIN = "admin"


class KeyFileError(RuntimeError):
    """The file of keys cannot be read or written, or there is no such key; the message says which."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key.

    Args:
        id: the part of the key that may be shown.
        sha256: of the whole key, in hexadecimal.
        created, revoked: ISO 8601, UTC.
        rate_limit: requests of this key, in place of the setting's.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created: str
    revoked: str | None = None
    rate_limit: str | None = None

    def allows(self, wanted: frozenset[Scope]) -> bool:
        """Whether it has one of the scopes; admin has them all."""
        return Scope.ADMIN in self.scopes or not wanted.isdisjoint(self.scopes)


class KeyStore:
    """The keys in a file; several processes may change it at once, a kill leaves the old or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[ApiKey]:
        """Every key ever made, the oldest first.

        Raises:
            KeyFileError: the file is there but cannot be read.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{self.path} cannot be read: {error}") from error
        return _parsed(text, self.path)

    def create(
        self, name: str, scopes: tuple[Scope, ...], *, rate_limit: str | None = None
    ) -> tuple[str, ApiKey]:
        """A new key as its owner gets it, once, and what is kept of it."""
        key_id = secrets.token_hex(_ID_BYTES)
        secret = f"semicap_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(key_id, name, scopes, _digest(secret), _now(), rate_limit=rate_limit)

        def with_new(keys: list[ApiKey]) -> list[ApiKey]:
            if len(keys) >= MAX_KEYS:
                raise KeyFileError(f"{self.path} holds {len(keys)} keys; at most {MAX_KEYS} are kept")
            return [*keys, key]

        self._change(with_new)
        return secret, key

    def revoke(self, key_id: str) -> ApiKey:
        """Ends a key for good; ending it twice is no error.

        Raises:
            KeyFileError: there is no such key.
        """

        def without(keys: list[ApiKey]) -> list[ApiKey]:
            if all(key.id != key_id for key in keys):
                raise KeyFileError(f"there is no key {key_id!r}; semicap keys list shows them")
            now = _now()
            return [replace(key, revoked=key.revoked or now) if key.id == key_id else key for key in keys]

        return next(key for key in self._change(without) if key.id == key_id)

    def _change(self, change: Callable[[list[ApiKey]], list[ApiKey]]) -> list[ApiKey]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                keys = change(self.all())
                _replace(self.path, _written(keys))
        except OSError as error:
            raise KeyFileError(f"{self.path} cannot be written: {error.strerror or error}") from error
        return keys


def is_key(secret: str, key: ApiKey) -> bool:
    """Whether a presented key is this one, in a time that does not tell how much of it was right."""
    return secrets.compare_digest(_digest(secret), key.sha256)


def id_of(secret: str) -> str | None:
    """The id in a presented key; None where it has not the form of a key."""
    found = _SECRET.fullmatch(secret)
    return found[1] if found else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parsed(text: str, path: Path) -> list[ApiKey]:
    try:
        document = json.loads(text)
        if document["format_version"] != FORMAT_VERSION:
            raise KeyFileError(
                f"{path} has format {document['format_version']}; this version reads {FORMAT_VERSION}"
            )
        return [_key(entry) for entry in document["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is not a file of keys: {error!r}") from error


def _key(entry: dict[str, Any]) -> ApiKey:
    return ApiKey(**{**entry, "scopes": tuple(Scope(name) for name in entry["scopes"])})


def _written(keys: list[ApiKey]) -> str:
    return (
        json.dumps({"format_version": FORMAT_VERSION, "keys": [asdict(key) for key in keys]}, indent=1) + "\n"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _give_to_owner_of_folder(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _give_to_owner_of_folder(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _give_to_owner_of_folder(path: Path) -> None:
    """A key made by root must stay readable to the service, which runs as the folder's owner."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)
