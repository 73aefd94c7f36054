"""Server-sent events as a client reads them."""

import json
from typing import Any


def events_of(text: str) -> list[tuple[str, Any]]:
    """Name and data of every event of an answer."""
    assert text == "" or text.endswith("\n\n")
    return [_event(block) for block in text.split("\n\n")[:-1]]


def _event(block: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    return fields.get("event", "message"), json.loads(fields["data"])
