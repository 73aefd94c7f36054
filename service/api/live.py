"""Answers that are sent while they come into being: server-sent events and JSON lines."""

import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.exchange import CaptionStream

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class LiveResponse(StreamingResponse):
    """Sends pieces as they come; when the client leaves, what they come from is closed at once."""

    def __init__(
        self, pieces: AsyncIterator[str], *, media_type: str, source: CaptionStream | None = None
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=_HEADERS)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._source is not None:
                await self._source.aclose()


def event_schema(*names: str) -> dict[str, Any]:
    """OpenAPI's schema of each event of an answer.

    Args:
        names: of the events; none where they have none.
    """
    data = {"type": "string", "contentMediaType": "application/json"}
    event = {"event": {"enum": list(names)}} if names else {}
    return {"type": "object", "properties": {**event, "data": data}, "required": [*event, "data"]}


def sent_event(data: BaseModel | dict[str, Any] | str, *, event: str | None = None) -> str:
    """One server-sent event; text is sent as it is."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else as_json(data)}\n\n"


def json_line(data: BaseModel | dict[str, Any]) -> str:
    """One line of JSON."""
    return as_json(data) + "\n"


def as_json(data: BaseModel | dict[str, Any]) -> str:
    """JSON on one line."""
    return data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
