"""The webhook at a job's end: signed (Standard Webhooks), to public addresses, tried again for a day."""

import json
import socket
import ssl
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

import structlog
from standardwebhooks import Webhook

from service.errors import InvalidRequestError
from service.jobs.documents import Delivery, now
from service.jobs.jobs import WEBHOOK, Jobs
from service.jobs.status import summary
from service.public_address import NoPublicAddressError, look_up_public
from service.settings import Settings

PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600))
"""Between tries; after the last one it is given up."""

_TIMEOUT_S = 10.0
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
        except (WebhookError, OSError, HTTPException) as error:
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
    port = url.port or (443 if url.scheme == "https" else 80)
    connection = _connect(url, _addresses(url, port, private_allowed=private_allowed), port)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", target, body=body, headers={**headers, "Host": url.netloc})
        return str(connection.getresponse().status)
    finally:
        connection.close()


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


def _connect(url: SplitResult, addresses: list[str], port: int) -> HTTPConnection:
    """A connection to the first address that takes one."""
    for host in addresses[:-1]:
        with suppress(OSError):
            return _connection(url, host, port)
    return _connection(url, addresses[-1], port)


def _connection(url: SplitResult, host: str, port: int) -> HTTPConnection:
    secure = url.scheme == "https"
    connection = (HTTPSConnection if secure else HTTPConnection)(host, port, timeout=_TIMEOUT_S)
    plain = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    connection.sock = (
        ssl.create_default_context().wrap_socket(plain, server_hostname=url.hostname) if secure else plain
    )
    return connection
