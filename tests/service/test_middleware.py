"""Request ids, limits on bodies, refusal while stopping, and failures that show nothing of the inside."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.middleware import BodyBudget, InTime, RequestContextMiddleware
from service.errors import BrokenImageError, QueueFullError
from service.lifecycle import Lifecycle
from service.log import configure_logging
from service.metrics import Metrics
from service.registry import ServedModel
from service.settings import Settings
from tests.service import pictures
from tests.service.conftest import MakeClient, captions_scope, parts_of

JPEG = {"Content-Type": "image/jpeg"}
GIVEN_UP_S = 60


def test_request_id_is_taken_and_returned(client: TestClient) -> None:
    response = client.get("/health/live", headers={"X-Request-ID": "order-66.a_b:c"})
    assert response.headers["X-Request-ID"] == "order-66.a_b:c"


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, 'quote"', "tab\there"])
def test_unfit_request_id_is_replaced(client: TestClient, given: str) -> None:
    returned = client.get("/health/live", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert len(returned) == 32
    assert returned != client.get("/health/live").headers["X-Request-ID"]


def test_problems_carry_the_request_id_too(client: TestClient) -> None:
    assert client.get("/nowhere", headers={"X-Request-ID": "abc"}).headers["X-Request-ID"] == "abc"


def test_failing_code_answers_500_without_internals_and_logs_the_reason() -> None:
    async def fail(request: Request) -> PlainTextResponse:
        raise RuntimeError("the secret path /srv/keys")

    app = Starlette(routes=[Route("/fail", fail)])
    app.add_middleware(RequestContextMiddleware, metrics=Metrics())
    with structlog.testing.capture_logs() as logged:
        response = TestClient(app).get("/fail", headers={"X-Request-ID": "abc"})
    assert response.status_code == 500
    assert response.json()["type"] == "urn:semicap:problem:internal-error"
    assert "secret" not in response.text
    assert response.headers["X-Request-ID"] == "abc"
    failures = [line for line in logged if line["event"] == "request_failed"]
    assert failures
    assert failures[0]["log_level"] == "error"


def test_each_request_is_logged_with_route_status_and_time(client: TestClient) -> None:
    with structlog.testing.capture_logs() as logged:
        client.get("/v1/models/nothing")
    (line,) = [line for line in logged if line["event"] == "request"]
    assert (line["route"], line["status"]) == ("/v1/models/{model}", 404)
    assert line["duration_ms"] >= 0


@pytest.mark.parametrize(
    ("path", "route"),
    [("/web/main.js", "/web"), ("/web/none.js", "/web"), ("/none", "unmatched"), ("/health", "/health")],
)
def test_metrics_know_few_routes_whatever_is_asked_for(client: TestClient, path: str, route: str) -> None:
    status = client.get(path).status_code
    line = f'semicap_http_requests_total{{method="GET",route="{route}",status="{status}"}}'
    assert line in client.get("/metrics").text


@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_413_and_under_it_is_read(make_client: MakeClient, chunked: bool) -> None:
    client = make_client(max_request_bytes=100_000)
    photo = pictures.encoded(pictures.cat(), "JPEG")

    def post(data: bytes) -> Any:
        content = iter([data[:5000], data[5000:]]) if chunked else data
        return client.post("/v1/captions", content=content, headers=JPEG)

    assert post(photo + bytes(100_001 - len(photo))).status_code == 413
    assert post(photo + bytes(100_000 - len(photo))).status_code == 200


def test_bodies_of_all_requests_share_one_budget() -> None:
    budget = BodyBudget(limit_bytes=100, retry_after_s=2)
    budget.take(60)
    with pytest.raises(QueueFullError) as caught:
        budget.take(41)
    assert caught.value.retry_after_s == 2
    budget.give_back(60)
    budget.take(100)


def test_budget_is_given_back_after_answers_of_every_kind(make_client: MakeClient) -> None:
    client = make_client(max_request_bytes=30_000, max_body_bytes_in_flight=30_000)
    for _ in range(3):
        assert client.post("/v1/captions", content=bytes(25_000), headers=JPEG).status_code == 415
        assert client.post("/v1/captions", content=iter([bytes(20_000)] * 2), headers=JPEG).status_code == 413


def test_body_beyond_the_budget_gets_429(make_client: MakeClient) -> None:
    client = make_client(max_body_bytes_in_flight=1000)
    response = client.post("/v1/captions", content=bytes(2000), headers=JPEG)
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"


def test_stopping_service_refuses_requests_and_closes_but_stays_observable(tiny_model: ServedModel) -> None:
    lifecycle = Lifecycle()
    with TestClient(create_app(Settings(), tiny_model, lifecycle=lifecycle)) as client:
        lifecycle.stop()
        refused = client.post("/v1/captions", content=b"x", headers=JPEG)
        assert (refused.status_code, refused.headers["Connection"]) == (503, "close")
        assert refused.json()["type"] == "urn:semicap:problem:stopping"
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/metrics").status_code == 200


def test_unknown_path_and_wrong_method_are_problems(client: TestClient) -> None:
    assert client.get("/v1/nothing").json()["type"] == "urn:semicap:problem:not-found"
    wrong = client.get("/v1/captions")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json()["type"] == "urn:semicap:problem:method-not-allowed"


BODIES = {
    "/v1/captions": "image/jpeg",
    "/v1/chat/completions": "application/json",
    "/v1/datasets": "application/json",
    "/v1/jobs/captions": "application/json",
    "/v1/jobs/finetunes": "application/json",
    "/v1/models/tiny/activate": "application/json",
}


@pytest.fixture(scope="module")
def hasty(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An application that waits for no body, with jobs but without their broker."""
    data = tmp_path_factory.mktemp("hasty")
    settings = Settings(body_timeout_s=0.05, data_dir=data, redis_url="redis://127.0.0.1:1")
    with TestClient(create_app(settings, tiny_model)) as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("begun", [b"", b"half"])
def test_slow_body_gets_408(hasty: TestClient, path: str, begun: bytes) -> None:
    sent: list[Any] = []

    async def post_half() -> None:
        pieces = [{"type": "http.request", "body": begun, "more_body": True}] if begun else []

        async def receive() -> Any:
            if pieces:
                return pieces.pop()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = captions_scope(hasty) | {
            "path": path,
            "headers": [(b"content-type", BODIES[path].encode())],
        }
        async with asyncio.timeout(GIVEN_UP_S):
            await hasty.app(scope, receive, send)

    assert hasty.portal is not None
    hasty.portal.call(post_half)
    assert sent[0]["status"] == 408
    problem = json.loads(sent[1]["body"])
    assert problem.get("type", problem.get("error", {}).get("code")).endswith(("request-timeout", "_timeout"))
    assert parts_of(hasty).engine.depth == 0


def test_what_comes_after_the_body_has_no_such_limit() -> None:
    asked, sent = [{"type": "http.request", "body": b"x", "more_body": False}], list[Any]()

    async def receive() -> Any:
        if asked:
            return asked.pop()
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def both() -> None:
        timed = InTime(receive, send, limit_s=0.01)
        assert (await timed.receive())["body"] == b"x"
        assert (await timed.receive())["type"] == "http.disconnect"
        unread = InTime(receive, send, limit_s=0.01)  # answered without its body
        await unread.send({"type": "http.response.start"})
        assert (await unread.receive())["type"] == "http.disconnect"

    asyncio.run(both())
    assert len(sent) == 1


def test_body_over_the_limit_is_413_where_json_is_read_for_the_route(make_client: MakeClient) -> None:
    client = make_client(max_request_bytes=1000)
    answer = client.put("/v1/models/aliases/a", json={"model": 2000 * "x"})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:semicap:problem:request-too-large")


@pytest.mark.parametrize("body", [b"\xff", b"{", 100_000 * b"[", b'"\xff"'])
def test_body_that_is_no_json_is_422(client: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.put("/v1/models/aliases/a", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:semicap:problem:invalid-request")


def test_log_lines_are_json_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    try:
        configure_logging(level="info", format="json")
        structlog.contextvars.bind_contextvars(request_id="r1")
        structlog.stdlib.get_logger("semicap.test").info("something", count=3)
        logging.getLogger("PIL.TiffImagePlugin").error("what is wrong with a file is told to who sent it")
        logging.getLogger("uvicorn.error").warning("plain %s", "line", extra={"request_ids": ["r2"]})
        first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    finally:
        root.handlers, root.level = before
        logging.getLogger("PIL").setLevel(logging.NOTSET)
        logging.captureWarnings(False)
        structlog.contextvars.clear_contextvars()
    assert (first["event"], first["count"], first["request_id"]) == ("something", 3, "r1")
    assert (second["event"], second["level"]) == ("plain line", "warning")
    assert (second["request_id"], second["request_ids"]) == ("r1", ["r2"])


def test_what_a_decode_thread_logs_carries_the_request_id(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def read(data: bytes, **_: Any) -> Any:
        seen.append(structlog.contextvars.get_contextvars())
        raise BrokenImageError("not today")

    monkeypatch.setattr("service.captioning.read_pixels", read)
    client.post("/v1/captions", content=b"photo", headers={**JPEG, "X-Request-ID": "abc"})
    assert seen == [{"request_id": "abc"}]
