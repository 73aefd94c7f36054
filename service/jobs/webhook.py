"""The webhook at a job's end: signed (Standard Webhooks), to public addresses, tried again for a day."""

import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import timedelta
from urllib.parse import SplitResult, urlsplit

import h11
import structlog
from standardwebhooks import Webhook

from service.errors import InvalidRequestError, ServiceError
from service.jobs.documents import Delivery, now
from service.jobs.jobs import WEBHOOK, Jobs
from service.jobs.status import summary
from service.public_address import NoPublicAddressError, look_up_public
from service.settings import Settings

PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600))
"""Between tries; after the last one it is given up."""

MOST_AT_ONE_TIME = 16
"""Tries of one worker; for the others the keeper asks again."""

_STEP_S = 10.0
_EXCHANGE_S = 30.0
"""From the first connection to the answer's status, also of who answers byte by byte."""

_MAX_ANSWER_BYTES = 64 * 1024
_READ_BYTES = 4096
_MOST_KEPT = 200
_ONLY_PUBLIC = "webhooks go to public https addresses only (SEMICAP_WEBHOOK_PRIVATE allows others)"

log = structlog.stdlib.get_logger("semicap.webhook")


class WebhookError(Exception):
    """The target cannot be told; the message says why."""


class WebhookSender:
    """Delivers webhooks.

    Args:
        private_allowed: whether a target may be http:// or have an address that is not public.
    """

    def __init__(self, jobs: Jobs, *, secret: str | None, private_allowed: bool) -> None:
        self._jobs = jobs
        self._secret = secret
        self._private_allowed = private_allowed
        self._running: set[str] = set()

    def begin(self, job_id: str) -> None:
        """As run, in a thread of its own: a target that hangs keeps no worker from captioning."""
        if job_id in self._running or len(self._running) >= MOST_AT_ONE_TIME:
            return
        self._running.add(job_id)
        threading.Thread(target=self._run_apart, args=(job_id,), name="semicap-webhook").start()

    def run(self, job_id: str) -> None:
        """One try, unless another worker is at it or it is over."""
        job = self._jobs.archive.job(job_id)
        status = self._jobs.status(job_id)
        with self._jobs.board.lease(job_id, WEBHOOK) as lease:
            delivery = self._jobs.archive.delivery(job_id, status.attempt)
            if job.webhook is None or not lease.is_held or delivery.due is None or status.ended is None:
                return
            event = {
                "type": f"job.{status.state}",
                "timestamp": status.ended.isoformat(),
                "data": summary(status),
            }
            answer = self._try(job.webhook.url, f"{job_id}-{status.attempt}", json.dumps(event))
            self._jobs.archive.keep_delivery(job_id, _after(delivery, answer))
            log.info("webhook", job_id=job_id, tries=delivery.tries + 1, answer=answer)

    def _run_apart(self, job_id: str) -> None:
        try:
            self.run(job_id)
        except ServiceError as error:
            log.warning("webhook_failed", job_id=job_id, error=str(error))
        except Exception:
            log.exception("webhook_failed", job_id=job_id)
        finally:
            self._running.discard(job_id)

    def _try(self, url: str, message_id: str, body: str) -> str:
        if self._secret is None:
            return "SEMICAP_WEBHOOK_SECRET is not set"
        sent = now()
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent.timestamp())),
            "webhook-signature": Webhook(self._secret).sign(message_id, sent, body),
        }
        try:
            return _post(urlsplit(url), body.encode(), headers, private_allowed=self._private_allowed)
        except (WebhookError, OSError, h11.ProtocolError) as error:
            return f"{type(error).__name__}: {error}"[:_MOST_KEPT]


def check_webhook(url: str, settings: Settings) -> None:
    """Raises InvalidRequestError when no webhook can go there; its address is looked up when it is sent."""
    if settings.webhook_secret is None:
        raise InvalidRequestError("webhooks are off: the operator sets SEMICAP_WEBHOOK_SECRET to sign them")
    parts = urlsplit(url)
    if parts.hostname is None or parts.username is not None:
        raise InvalidRequestError("the webhook's address has no host, or a user name in it")
    if parts.scheme != "https" and not settings.webhook_private:
        raise InvalidRequestError("the webhook's address must be https://")


def _after(delivery: Delivery, answer: str) -> Delivery:
    delivered = answer.startswith("2")
    tries = delivery.tries + 1
    due = None if delivered or tries > len(PAUSES) else now() + PAUSES[tries - 1]
    return Delivery(attempt=delivery.attempt, tries=tries, due=due, delivered=delivered, answer=answer)


def _post(url: SplitResult, body: bytes, headers: dict[str, str], *, private_allowed: bool) -> str:
    """The answer's status; redirects are not followed, no proxy of the environment is used."""
    end = time.monotonic() + _EXCHANGE_S
    port = url.port or (443 if url.scheme == "https" else 80)
    addresses = _addresses(url, port, private_allowed=private_allowed)
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER_BYTES)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    more = {"Host": url.netloc, "Content-Length": str(len(body)), "Connection": "close"}
    request = h11.Request(method="POST", target=target, headers=list((headers | more).items()))
    whole = b"".join(http.send(event) or b"" for event in (request, h11.Data(body), h11.EndOfMessage()))
    with _connect(url, addresses, port, end=end) as connection:
        connection.settimeout(_left_s(end))
        connection.sendall(whole)
        return _status(http, connection, end=end)


def _status(http: h11.Connection, connection: socket.socket, *, end: float) -> str:
    """Reads no more of the answer than its head."""
    num_bytes = 0
    while not isinstance(event := http.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            connection.settimeout(_left_s(end))
            data = connection.recv(_READ_BYTES)
            num_bytes += len(data)
            if num_bytes > _MAX_ANSWER_BYTES:
                raise WebhookError(f"the head of the answer has more than {_MAX_ANSWER_BYTES} bytes")
            http.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise WebhookError("the connection ended without an answer")
    return str(event.status_code)


def _left_s(end: float) -> float:
    """How long the next step of the exchange may take."""
    left = end - time.monotonic()
    if left <= 0:
        raise WebhookError(f"the exchange took more than {_EXCHANGE_S:g} s")
    return min(left, _STEP_S)


def _addresses(url: SplitResult, port: int, *, private_allowed: bool) -> list[str]:
    """Looked up once: what was checked is what is connected to."""
    host = url.hostname or ""
    if private_allowed:
        return [str(where[0]) for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    try:
        if url.scheme == "https":
            return look_up_public(host, port)
    except NoPublicAddressError as error:
        raise WebhookError(f"{error}; {_ONLY_PUBLIC}") from error
    raise WebhookError(_ONLY_PUBLIC)


def _connect(url: SplitResult, addresses: list[str], port: int, *, end: float) -> socket.socket:
    """A connection to the first address that takes one."""
    for host in addresses[:-1]:
        with suppress(OSError):
            return _connection(url, host, port, end=end)
    return _connection(url, addresses[-1], port, end=end)


def _connection(url: SplitResult, host: str, port: int, *, end: float) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=_left_s(end))
    if url.scheme != "https":
        return plain
    plain.settimeout(_left_s(end))
    return ssl.create_default_context().wrap_socket(plain, server_hostname=url.hostname)
