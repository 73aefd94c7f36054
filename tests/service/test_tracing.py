"""Spans of requests, in OpenTelemetry's own in-memory exporter."""

from collections.abc import Iterator

import pytest
import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.middleware import RequestContextMiddleware
from service.errors import CommandError
from service.metrics import Metrics
from service.registry import ServedModel
from service.settings import Settings

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.api.tracing import TracingMiddleware

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def greet(request: Request) -> Response:
    structlog.stdlib.get_logger("semicap.test").info("greeting")
    return PlainTextResponse("hello", status_code=int(request.path_params["status"]))


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(spans: InMemorySpanExporter) -> Iterator[TestClient]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    middleware = [
        Middleware(RequestContextMiddleware, metrics=Metrics()),
        Middleware(TracingMiddleware, provider=provider),
    ]
    with TestClient(Starlette(routes=[Route("/greet/{status}", greet)], middleware=middleware)) as client:
        yield client
    provider.shutdown()


def test_request_is_a_span_named_by_its_route(client: TestClient, spans: InMemorySpanExporter) -> None:
    client.get("/greet/200?secret=1", headers={"X-Request-ID": "abc"})
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("GET /greet/{status}", SpanKind.SERVER)
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/greet/{status}",
        "semicap.request_id": "abc",
        "url.path": "/greet/200",
        "url.scheme": "http",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_span_belongs_to_the_callers_trace_and_log_lines_name_it(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        client.get("/greet/200", headers={"traceparent": PARENT})
    (span,) = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert [line["trace_id"] for line in logged if line["event"] in ("greeting", "request")] == [TRACE_ID] * 2


def test_server_error_is_an_error_of_the_span(client: TestClient, spans: InMemorySpanExporter) -> None:
    client.get("/greet/503")
    client.get("/greet/404")
    assert [span.status.status_code for span in spans.get_finished_spans()] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]


def test_service_with_tracing_on_starts_and_says_what_is_missing_otherwise(
    tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with TestClient(create_app(Settings(tracing=True), tiny_model)) as client:
        assert client.get("/health/live").status_code == 200
    monkeypatch.setitem(__import__("sys").modules, "service.api.tracing", None)
    with pytest.raises(CommandError, match=r"semicap\[otel\]"):
        create_app(Settings(tracing=True), tiny_model)
