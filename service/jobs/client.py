"""The service's job API for the command line, with the standard library alone."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from service.errors import CommandError

URL_VARIABLE = "SEMICAP_URL"
KEY_VARIABLE = "SEMICAP_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"

_TIMEOUT_S = 600.0
"""A large dataset is read member by member before the answer comes."""

_MOST_SHOWN = 500


class JobClient:
    """Asks a running service; every failure is a CommandError of one line."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        self._parts = _parts_of(self._url)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON answer."""
        with self._response(method, path, body=body, headers=headers) as response:
            content = response.read()
        try:
            answer: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise CommandError(
                f"what answers at {self._url} is not semicap; {URL_VARIABLE} or --url names another"
            ) from error
        return answer

    def send(self, method: str, path: str) -> None:
        """Asks for what has no answer but that it is done."""
        with self._response(method, path):
            pass

    def lines(self, path: str) -> Iterator[bytes]:
        """The answer line by line, as it comes."""
        with self._response("GET", path) as response:
            yield from response

    def pieces(self, path: str) -> Iterator[bytes]:
        """The answer in pieces of bytes."""
        with self._response("GET", path) as response:
            while piece := response.read(64 * 1024):
                yield piece

    @contextmanager
    def _response(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        with closing(self._connection()) as connection:
            address = quote(self._parts.path.rstrip("/"), safe="/%") + path
            headers = {**_key_header(), **(headers or {})}
            try:
                with suppress(BrokenPipeError, ConnectionResetError):  # a refusal comes before the whole body
                    connection.request(method, address, body=body, headers=headers)
                response = connection.getresponse()
                if response.status >= 300:
                    raise CommandError(_problem(response))
                yield response
            except (OSError, HTTPException) as error:
                raise CommandError(
                    f"the service at {self._url} does not answer ({error}); "
                    f"is it running? {URL_VARIABLE} or --url names another"
                ) from error

    def _connection(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT_S)


def quoted(name: str) -> str:
    """An id or name as one part of an address."""
    return quote(os.fsencode(name), safe="")


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is no number, a name with an empty part
        pass
    raise CommandError(f"{url!r} is not the address of a service; use http://host:port")


def _key_header() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    if key and not (key.isascii() and key.isprintable()):
        raise CommandError(f"{KEY_VARIABLE} has characters that are in no key; copy the key again")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _problem(response: HTTPResponse) -> str:
    moved_to = response.getheader("Location")
    if moved_to is not None:
        return (
            f"the service answered {response.status} and names {moved_to}; "
            f"{URL_VARIABLE} or --url says where it is"
        )
    text = response.read(64 * 1024)
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {response.status}: {text[:_MOST_SHOWN].decode(errors='replace')}"
