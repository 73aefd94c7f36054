"""A job's events as server-sent events."""

import time
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.errors import TooManyJobsError
from service.jobs.events import JobEvent

_KEEPALIVE_S = 15.0


class EventStreams:
    """How many event streams are open; a proxy or browser may leave many behind."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0

    def take(self) -> "StreamPlace":
        """Raises TooManyJobsError."""
        if self._open >= self._limit:
            raise TooManyJobsError(
                f"{self._open} event streams are open; poll the job instead", retry_after_s=10
            )
        return StreamPlace(self)

    def opened(self, change: int) -> None:
        self._open += change


class StreamPlace:
    """The place of one stream, taken when it starts and given back when it ends, however it does."""

    def __init__(self, streams: EventStreams) -> None:
        self._streams = streams

    def __enter__(self) -> None:
        self._streams.opened(1)

    def __exit__(self, *_: object) -> None:
        self._streams.opened(-1)


async def event_bytes(events: AsyncIterator[JobEvent | None], place: StreamPlace) -> AsyncIterator[bytes]:
    """Events on the wire, with a comment where nothing happens for long."""
    with place:
        spoke = time.monotonic()
        async for event in events:
            if event is not None:
                spoke = time.monotonic()
                yield format_sse_event(data_str=event.data, event=event.event, id=event.id)
            elif time.monotonic() - spoke > _KEEPALIVE_S:
                spoke = time.monotonic()
                yield KEEPALIVE_COMMENT
