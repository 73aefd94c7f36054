"""Webhooks: signed, only to where the operator allows, tried again until they are taken."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from standardwebhooks import Webhook

from service.errors import InvalidRequestError
from service.jobs.documents import CaptionJob, now
from service.jobs.parts import JobParts
from service.jobs.queue import ENDS_QUEUE
from service.jobs.retention import Keep, Retention
from service.jobs.webhook import PAUSES, WebhookSender, check_webhook
from service.settings import Settings
from tests.service.jobs.conftest import job_on, uploaded
from tests.service.jobs.fakes import InlineWorker

SECRET = "whsec_" + "c2VtaWNhcC10ZXN0LXNlY3JldC1vZi0zMi1ieXRlcyE="


class Target(HTTPServer):
    """Takes webhooks, the first ones with the given statuses."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.taken: list[tuple[bytes, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Target)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((body, dict(self.headers.items())))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def target() -> Iterator[Target]:
    server = Target(500)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ended_job(parts: JobParts, url: str) -> CaptionJob:
    job = job_on(uploaded(parts, 3), webhook={"url": url})
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    return job


def test_webhook_is_signed_and_tried_again_until_it_is_taken(parts: JobParts, target: Target) -> None:
    job = ended_job(parts, f"http://127.0.0.1:{target.server_port}/hook?a=1")
    assert parts.keeper.look() == {job.id: "webhook"}
    sender = WebhookSender(parts.jobs, secret=SECRET, private_allowed=True)
    sender.run(job.id)
    delivery = parts.jobs.archive.delivery(job.id, 1)
    assert (delivery.tries, delivery.delivered, delivery.answer) == (1, False, "500")
    assert delivery.due is not None
    assert timedelta(0) < delivery.due - now() <= PAUSES[0]

    parts.jobs.archive.keep_delivery(job.id, delivery.model_copy(update={"due": now()}))
    sender.run(job.id)
    assert parts.jobs.archive.delivery(job.id, 1).delivered
    parts.keeper.look()
    assert parts.jobs.archive.active() == []

    first, second = target.taken
    assert first[1]["webhook-id"] == second[1]["webhook-id"]
    event = Webhook(SECRET).verify(second[0], second[1])
    assert (event["type"], event["data"]["id"], event["data"]["done"]) == ("job.succeeded", job.id, 3)


def test_job_is_over_at_its_end_whether_its_webhook_is_taken_or_not(
    parts: JobParts, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.webhook.PAUSES", (timedelta(seconds=0.1), timedelta(hours=1)))
    target.statuses = [500, 500]
    job = ended_job(parts, f"http://127.0.0.1:{target.server_port}/")
    sender = WebhookSender(parts.jobs, secret=SECRET, private_allowed=True)
    for tries in (1, 2):
        until = time.monotonic() + 30
        while parts.keeper.look() != {job.id: "webhook"}:
            assert time.monotonic() < until
            parts.jobs.board.client.delete(ENDS_QUEUE)
        assert parts.jobs.archive.active() == []
        sender.run(job.id)
        assert parts.jobs.archive.delivery(job.id, 1).tries == tries
    keep = Keep(jobs=timedelta(0))
    assert Retention(parts.jobs.archive, parts.datasets, keep).sweep() == [], "it is still to be delivered"
    parts.jobs.board.client.delete(ENDS_QUEUE)
    assert parts.keeper.look() == {}, "it is due in an hour"


def test_webhook_to_this_machine_is_not_sent_unless_allowed(parts: JobParts, target: Target) -> None:
    for url in (f"http://127.0.0.1:{target.server_port}/", f"https://localhost:{target.server_port}/"):
        job = ended_job(parts, url)
        WebhookSender(parts.jobs, secret=SECRET, private_allowed=False).run(job.id)
        assert "public https addresses only" in parts.jobs.archive.delivery(job.id, 1).answer
    assert target.taken == []


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "168.63.129.16"])
def test_webhook_goes_by_the_address_rules_of_image_urls(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (one, 443)) for one in ("8.8.8.8", address)]

    job = ended_job(parts, "https://two.test/hook")
    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    WebhookSender(parts.jobs, secret=SECRET, private_allowed=False).run(job.id)
    assert "has no public address" in parts.jobs.archive.delivery(job.id, 1).answer


@pytest.mark.parametrize(
    ("sent", "limit_s", "said"),
    [
        (b"H", 0.5, "the exchange took more than 0.5 s|TimeoutError"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 60.0, "more than 65536 bytes"),
        (b"x: y\r\n" * 1000, 60.0, "more than 65536 bytes"),
        (b"", 60.0, "RemoteProtocolError"),
    ],
)
def test_target_that_never_ends_its_answer_does_not_hold_the_worker(
    parts: JobParts, monkeypatch: pytest.MonkeyPatch, sent: bytes, limit_s: float, said: str
) -> None:
    monkeypatch.setattr("service.jobs.webhook._EXCHANGE_S", limit_s)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_dribble, args=(server, sent), daemon=True)
        thread.start()
        job = ended_job(parts, f"http://127.0.0.1:{server.getsockname()[1]}/")
        WebhookSender(parts.jobs, secret=SECRET, private_allowed=True).run(job.id)
        thread.join()
    assert re.search(said, parts.jobs.archive.delivery(job.id, 1).answer)


def _dribble(server: socket.socket, sent: bytes) -> None:
    """Sends the same again and again until the other side has gone."""
    server.settimeout(30)
    with suppress(OSError), server.accept()[0] as connection:
        connection.recv(65536)
        while sent:
            connection.sendall(sent)
            time.sleep(0.02)


def test_webhook_that_nobody_takes_is_given_up(parts: JobParts) -> None:
    job = ended_job(parts, "http://127.0.0.1:9/")
    sender = WebhookSender(parts.jobs, secret=SECRET, private_allowed=True)
    for _ in range(len(PAUSES) + 1):
        assert parts.jobs.archive.delivery(job.id, 1).due is not None
        sender.run(job.id)
    delivery = parts.jobs.archive.delivery(job.id, 1)
    assert (delivery.due, delivery.delivered) == (None, False)


@pytest.mark.parametrize(
    ("url", "settings", "said"),
    [
        ("https://example.org/hook", Settings(), "SEMICAP_WEBHOOK_SECRET"),
        ("http://example.org/hook", Settings(webhook_secret=SECRET), "https://"),
        ("https://me:secret@example.org/", Settings(webhook_secret=SECRET), "user name"),
    ],
)
def test_webhook_that_cannot_be_sent_is_refused_with_the_job(url: str, settings: Settings, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        check_webhook(url, settings)


def test_target_that_hangs_keeps_no_worker_and_is_not_told_twice(parts: JobParts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(10)
        job = ended_job(parts, f"http://127.0.0.1:{target.getsockname()[1]}")
        parts.keeper.look()
        sender = WebhookSender(parts.jobs, secret=SECRET, private_allowed=True)
        sender.begin(job.id)
        sender.begin(job.id)
        connection, _ = target.accept()
        assert parts.keeper.look() == {}
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        end = time.monotonic() + 10
        while not parts.jobs.archive.delivery(job.id, 1).delivered:
            assert time.monotonic() < end
            time.sleep(0.02)
        target.settimeout(0.1)
        with pytest.raises(TimeoutError):
            target.accept()
