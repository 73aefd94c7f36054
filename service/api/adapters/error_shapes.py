"""Errors as the clients of other services expect them, whichever part of this service they come from.

Routes and middleware answer problem documents; below the addresses of an adapter their content is put into
that protocol's shape on the way out, so that no part has to know about the others' shapes.
"""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from service.problems import PROBLEM_MEDIA_TYPE, TYPE_PREFIX

Problem: TypeAlias = dict[str, Any]
Shape: TypeAlias = Callable[[Problem], dict[str, Any]]

_BAD_REQUEST = (415, 422)  # these protocols know one status for whatever is wrong with a request


def openai_error(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        problem["status"]
    )
    if kind is None:
        kind = "server_error" if problem["status"] >= 500 else "invalid_request_error"
    code = problem["type"].removeprefix(TYPE_PREFIX).replace("-", "_")
    return {
        "error": {"message": problem["detail"], "type": kind, "param": problem.get("option"), "code": code}
    }


def ollama_error(problem: Problem) -> dict[str, Any]:
    """The one field that Ollama's and Hugging Face's errors have."""
    return {"error": problem["detail"]}


def photoprism_error(problem: Problem) -> dict[str, Any]:
    """The error of PhotoPrism's Vision API."""
    return {"code": status_of(problem["status"]), "error": problem["detail"], "result": {}}


_SHAPES: tuple[tuple[str, Shape], ...] = (
    ("/v1/chat/", openai_error),
    ("/api/v1/vision/", photoprism_error),
    ("/api/", ollama_error),
    ("/models/", ollama_error),
)


def status_of(status: int) -> int:
    """The status that an adapter's error has instead of the native one."""
    return 400 if status in _BAD_REQUEST else status


def shape_below(path: str) -> Shape | None:
    """The shape of errors at an address; None where they are problem documents."""
    return next((shape for prefix, shape in _SHAPES if path.startswith(prefix)), None)


def in_clients_shape(send: Send, *, path: str) -> Send:
    """A `send` that puts the problem documents below an adapter's address into its protocol's shape."""
    shape = shape_below(path)
    return send if shape is None else _Reshaper(send, shape)


class _Reshaper:
    """Holds a problem document back until it is whole; lets everything else pass."""

    def __init__(self, send: Send, shape: Shape) -> None:
        self._send = send
        self._shape = shape
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._answer(self._start)

    async def _answer(self, start: Message) -> None:
        body = json.dumps(self._shape(json.loads(self._body))).encode()
        start["status"] = status_of(start["status"])
        headers = MutableHeaders(scope=start)
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _is_problem(start: Message) -> bool:
    return Headers(scope=start).get("content-type", "").startswith(PROBLEM_MEDIA_TYPE)
