"""What surrounds every request, as pure ASGI: id, timing, limits while the body streams, refusal on stop."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.adapters.error_shapes import in_clients_shape
from service.api.inputs import content_type_of
from service.api.responses import problem_response
from service.errors import (
    QueueFullError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServiceError,
    StoppingError,
)
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.sizes import size_text

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_GONE_STATUS = 499
"""What logs and metrics call a request whose client left before the answer (nginx's number)."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OUR_FAULT = "something went wrong in the service; its log has the reason under this request id"
_ALWAYS_ANSWERED = ("/health/", "/metrics")

log = structlog.stdlib.get_logger("semicap.http")


@dataclass
class BodyBudget:
    """Bytes of request bodies held at one time, over all requests."""

    limit_bytes: int
    retry_after_s: float
    held_bytes: int = field(default=0, init=False)

    def take(self, count: int) -> None:
        if self.held_bytes + count > self.limit_bytes:
            held, limit = size_text(self.held_bytes), size_text(self.limit_bytes)
            raise QueueFullError(
                f"requests in flight hold {held}; together they may hold {limit}",
                retry_after_s=self.retry_after_s,
            )
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        self.held_bytes -= count


class RequestContextMiddleware:
    """Gives each request an id, binds it to the log, times it, and answers 500 without internals."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        with self.metrics.http_in_flight.track_inprogress():
            await self._timed(scope, receive, send, request_id=request_id)

    async def _timed(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        answer = in_clients_shape(send_with_id, path=scope["path"])
        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            status = CLIENT_GONE_STATUS
        except ServiceError as error:  # of a middleware; those of routes are answered further in
            await problem_response(error)(scope, receive, answer)
        except Exception:
            log.exception("request_failed", path=scope["path"])
            if status:
                raise
            await problem_response(ServiceError(_OUR_FAULT))(scope, receive, answer)
        finally:
            self._record(scope, status=status or CLIENT_GONE_STATUS, seconds=time.perf_counter() - started)

    def _record(self, scope: Scope, *, status: int, seconds: float) -> None:
        mount = scope.get("root_path")  # of the page's files, which have no route each
        route = getattr(scope.get("route"), "path", None) or mount or "unmatched"
        self.metrics.observe_request(method=scope["method"], route=route, status=status, seconds=seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            duration_ms=round(1000 * seconds, 1),
        )


class StoppingMiddleware:
    """Refuses new requests once the service is stopping; health and metrics stay readable."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self.lifecycle.is_stopping and scope["type"] == "http"
        if not refused or scope["path"].startswith(_ALWAYS_ANSWERED):
            await self.app(scope, receive, send)
            return
        await _read_to_the_end(receive)
        response = problem_response(StoppingError("the service is stopping; send the request again later"))
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


class BodyLimitMiddleware:
    """Counts the body as it streams, so that neither one request nor all of them together fill the memory.

    Args:
        max_s: seconds in which a body has to be there, from its request's head on.
        spooled: paths whose bodies go to disk as they come, with their own limit in bytes; how long that may
            take is up to what reads them.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_s: float, budget: BodyBudget, spooled: Mapping[str, int]
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_s = max_s
        self.budget = budget
        self.spooled = spooled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in self.spooled and content_type_of(Request(scope)) != "application/json":
            limit = self.spooled[scope["path"]]
            await self._counted(scope, receive, send, max_bytes=limit, budget=BodyBudget(limit, 0))
        else:
            timed = InTime(receive, send, limit_s=self.max_s)
            await self._counted(
                scope, timed.receive, timed.send, max_bytes=self.max_bytes, budget=self.budget
            )

    async def _counted(
        self, scope: Scope, receive: Receive, send: Send, *, max_bytes: int, budget: BodyBudget
    ) -> None:
        held = 0
        stated = _content_length(scope)

        def take(count: int) -> None:
            nonlocal held
            if held + count > max_bytes:
                raise _too_large(max_bytes)
            budget.take(count)
            held += count

        async def receive_counted() -> Message:
            if stated > max_bytes:
                raise _too_large(max_bytes)
            message = await receive()
            take(len(message.get("body", b"")))
            return message

        scope.setdefault("state", {})["take_body_bytes"] = take  # for what is fetched on the request's behalf
        try:
            await self.app(scope, receive_counted, send)
        finally:
            budget.give_back(held)


class InTime:
    """A request whose body has to come in time; what comes once the answer has begun need not."""

    def __init__(self, receive: Receive, send: Send, *, limit_s: float) -> None:
        self._receive = receive
        self._send = send
        self._limit_s = limit_s
        self._end = asyncio.get_running_loop().time() + limit_s
        self._is_over = False

    async def receive(self) -> Message:
        """Raises RequestTimeoutError when the body is late."""
        try:
            async with asyncio.timeout_at(None if self._is_over else self._end):
                message = await self._receive()
        except TimeoutError as error:
            if self._is_over:  # the answer has begun meanwhile
                return await self._receive()
            raise RequestTimeoutError(
                f"the request body did not arrive within {self._limit_s:g} s"
            ) from error
        self._is_over |= not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        self._is_over = True
        await self._send(message)


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request body has more than {size_text(max_bytes)}; send fewer or smaller images",
        max_bytes=max_bytes,
    )


async def _read_to_the_end(receive: Receive) -> None:
    """Closing a connection with unread bytes resets it, and the client may lose the answer."""
    message = await receive()
    while message.get("more_body", False):
        message = await receive()


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid4().hex


def _content_length(scope: Scope) -> int:
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isdecimal() else 0
