"""A job's events as they come, from any point on."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import redis
import redis.asyncio

from service.jobs.board import ANSWER_S, CONNECT_S, events_key
from service.jobs.documents import ENDED
from service.jobs.jobs import Jobs
from service.jobs.status import summary

_BLOCK_MS = 1000
_LOOK_EVERY_S = 5.0
"""Seconds between two looks into the store for an end that no event told of."""

_EVENT_ID = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job; `data` is JSON, and a comment has none."""

    data: str
    event: str | None = None
    id: str | None = None


class JobEvents:
    """Reads the events of jobs for any number of listeners."""

    def __init__(self, redis_url: str, jobs: Jobs, *, is_stopping: Callable[[], bool]) -> None:
        self._client = redis.asyncio.Redis.from_url(
            redis_url, decode_responses=True, socket_timeout=ANSWER_S, socket_connect_timeout=CONNECT_S
        )
        self._jobs = jobs
        self._is_stopping = is_stopping

    async def listen(self, job_id: str, *, after: str | None) -> AsyncIterator[JobEvent | None]:
        """Events after one that the listener has seen, until the job has ended; None every second between.

        Args:
            after: id of that event; None or what is no id begins with the oldest that is kept.
        """
        last = after if after and _EVENT_ID.fullmatch(after) else "0-0"
        looked, ended = 0.0, False
        while not self._is_stopping():
            fresh = await self._read(job_id, last)
            for event in fresh:
                last, ended = event.id or last, event.event in ENDED
                yield event
            if not fresh:
                yield None
            if ended or (not fresh and time.monotonic() - looked > _LOOK_EVERY_S):
                looked = time.monotonic()
                status = await asyncio.to_thread(self._jobs.status, job_id)
                if status.ended is not None:
                    if not ended:
                        yield JobEvent(json.dumps(summary(status)), event=status.state)
                    return

    async def close(self) -> None:
        await self._client.aclose()

    async def _read(self, job_id: str, last: str) -> list[JobEvent]:
        try:
            found: Any = await self._client.xread({events_key(job_id): last}, count=100, block=_BLOCK_MS)
        except redis.RedisError:
            await asyncio.sleep(_BLOCK_MS / 1000)
            return []
        streams = cast(
            Any, found.values() if isinstance(found, dict) else [pairs for _, pairs in found or ()]
        )
        return [
            JobEvent(fields["data"], event=fields["event"], id=entry_id)
            for entries in streams
            for entry_id, fields in _flat(entries)
        ]


def _flat(entries: Any) -> list[tuple[str, dict[str, str]]]:
    """RESP3 wraps a stream's entries in one more list."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
