"""Traces of requests by OpenTelemetry (extra `otel`): on by SEMICAP_TRACING, set up by OTEL_... variables."""

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import release

SERVER_ERRORS_FROM = 500

_parents = TraceContextTextMapPropagator()


def provider_of_environment() -> TracerProvider:
    """Sends spans in batches to where OTEL_EXPORTER_OTLP_ENDPOINT says; shut it down at the end."""
    named = Resource.create({"service.name": "semicap", SERVICE_VERSION: release()})
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TracingMiddleware:
    """One span for a request, child of the caller's (`traceparent`); every log line names its trace."""

    def __init__(self, app: ASGIApp, *, provider: TracerProvider) -> None:
        self.app = app
        self.tracer = provider.get_tracer("semicap", release())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parent = _parents.extract(dict(Headers(scope=scope)))
        with self.tracer.start_as_current_span(
            scope["method"], context=parent, kind=SpanKind.SERVER, attributes=_attributes(scope)
        ) as span:
            trace_id = format_trace_id(span.get_span_context().trace_id)
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
            await self._followed(span, scope, receive, send)

    async def _followed(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noting_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", message["status"])
                if message["status"] >= SERVER_ERRORS_FROM:
                    span.set_status(StatusCode.ERROR)
            await send(message)

        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            if route := getattr(scope.get("route"), "path", None):
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)


def _attributes(scope: Scope) -> dict[str, str]:
    """By OpenTelemetry's names, and our request id; never the query, which may hold what is private."""
    return {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "semicap.request_id": scope.get("state", {}).get("request_id", ""),
    }
