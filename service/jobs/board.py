"""What the broker's server remembers of running jobs: what is to do, who does it, counts, events.

All of it can be lost: the store has what it is rebuilt from.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis

from service.errors import BrokerUnavailableError
from service.jobs.documents import Attempt, Counts, Job, JobState, Stop
from service.jobs.lease import Lease

CONNECT_S = 3.0
ANSWER_S = 3.0
AWAY_S = 3.0
"""A broker that did not answer in time is not asked again for so long: one call waits for it, not each."""

MAX_EVENTS = 1000
KEPT_AFTER_END_S = 3600
"""Seconds that a job's events can still be read after its end."""

_NAMES = ("head", "chunks", "todo", "sent", "ticks", "tries", "stop")
_RATE_OVER_S = 60.0
_TICKS = 64

_REPORT = """
local head, chunks, sent, ticks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local attempt, chunk, complete, now = ARGV[1], ARGV[2], ARGV[6], ARGV[7]
if redis.call('HGET', head, 'attempt') ~= attempt then return -1 end
local was = cjson.decode(redis.call('HGET', chunks, chunk) or '[0,0,0,0]')
local total = 0
for index, name in ipairs({'done', 'failed', 'skipped'}) do
  local value = tonumber(ARGV[2 + index])
  total = total + redis.call('HINCRBY', head, name, value - was[index])
end
local is = {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(complete)}
redis.call('HSET', chunks, chunk, cjson.encode(is))
redis.call('HSET', head, 'state', 'running')
redis.call('HSETNX', head, 'started', now)
redis.call('RPUSH', ticks, now .. ' ' .. total)
redis.call('LTRIM', ticks, -tonumber(ARGV[8]), -1)
if complete == '1' then
  redis.call('ZREM', sent, chunk)
  if was[4] == 0 then redis.call('HINCRBY', head, 'chunks_left', -1) end
end
return tonumber(redis.call('HGET', head, 'chunks_left'))
"""

_TAKE = """
local todo, sent, room, now = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2]
local taken = {}
while redis.call('ZCARD', sent) < room do
  local chunk = redis.call('LPOP', todo)
  if not chunk then break end
  redis.call('ZADD', sent, now, chunk)
  table.insert(taken, chunk)
end
return taken
"""


@dataclass(frozen=True)
class Progress:
    """Where a running attempt stands; counts are of this attempt's own items."""

    attempt: int
    state: JobState
    counts: Counts
    chunks_left: int
    started: float | None
    rate: float | None


class Board:
    """The state of running jobs in Redis."""

    def __init__(self, client: "redis.Redis") -> None:
        self.client = client
        self._report = client.register_script(_REPORT)
        self._take = client.register_script(_TAKE)
        self._away_until = 0.0

    @classmethod
    def open(cls, url: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> "Board":
        """Connects when it is first used."""
        return cls(
            redis.Redis.from_url(
                url, decode_responses=True, socket_timeout=answer_s, socket_connect_timeout=connect_s
            )
        )

    def place(
        self,
        job: Job,
        attempt: Attempt,
        *,
        todo: Iterable[int],
        chunks: Mapping[int, tuple[Counts, bool]],
    ) -> None:
        """Puts an attempt on the board as the store knows it.

        Args:
            chunks: counts of chunks that were begun, and whether they are complete.
        """
        counts = sum((one for one, _ in chunks.values()), Counts())
        complete = sum(is_complete for _, is_complete in chunks.values())
        head: dict[Any, Any] = {
            "attempt": attempt.number,
            "state": "running" if chunks else "queued",
            "chunks_left": attempt.num_chunks - complete,
            "done": counts.done,
            "failed": counts.failed,
            "skipped": counts.skipped,
        }
        begun = {str(chunk): _packed(one, is_complete) for chunk, (one, is_complete) in chunks.items()}
        with self._asking(), self.client.pipeline(transaction=True) as pipe:
            pipe.delete(*(_key(job.id, name) for name in _NAMES))
            waiting = [str(chunk) for chunk in todo]
            for begin in range(0, len(waiting), 1000):
                pipe.rpush(_key(job.id, "todo"), *waiting[begin : begin + 1000])
            if begun:
                pipe.hset(_key(job.id, "chunks"), mapping=cast(dict[Any, Any], begun))
            pipe.hset(_key(job.id, "head"), mapping=head)
            pipe.persist(_key(job.id, "events"))
            pipe.execute()

    def has(self, job_id: str, attempt: int) -> bool:
        """Whether an attempt is on the board."""
        with self._asking():
            return self.client.hget(_key(job_id, "head"), "attempt") == str(attempt)

    def remove(self, job_id: str) -> None:
        """Takes an ended job off the board; its events stay for a while."""
        with self._asking(), self.client.pipeline(transaction=True) as pipe:
            pipe.delete(*(_key(job_id, name) for name in _NAMES))
            pipe.expire(_key(job_id, "events"), KEPT_AFTER_END_S)
            pipe.execute()

    def take(self, job_id: str, *, room: int) -> list[int]:
        """Chunks to send now, so that at most `room` are on their way."""
        with self._asking():
            keys = [_key(job_id, "todo"), _key(job_id, "sent")]
            return [int(chunk) for chunk in cast(list[str], self._take(keys=keys, args=[room, time.time()]))]

    def sent(self, job_id: str) -> dict[int, float]:
        """Chunks that are on their way or being done, and when they were sent."""
        with self._asking():
            pairs = cast(
                list[tuple[str, float]], self.client.zrange(_key(job_id, "sent"), 0, -1, withscores=True)
            )
            return {int(chunk): score for chunk, score in pairs}

    def sent_again(self, job_id: str, chunk: int) -> None:
        with self._asking():
            self.client.zadd(_key(job_id, "sent"), {str(chunk): time.time()}, xx=True)

    def report(
        self, job_id: str, attempt: int, chunk: int, counts: Counts, *, is_complete: bool
    ) -> int | None:
        """States a chunk's counts, however often; chunks left, or None for an attempt not on the board."""
        names = ("head", "chunks", "sent", "ticks")
        values = (attempt, chunk, counts.done, counts.failed, counts.skipped, int(is_complete), time.time())
        with self._asking():
            left = int(
                cast(int, self._report(keys=[_key(job_id, name) for name in names], args=[*values, _TICKS]))
            )
        return None if left < 0 else left

    def begin(self, job_id: str, part: str | int) -> int:
        """Notes that a worker begins a chunk, or the end; how often one has since that got any further."""
        with self._asking():
            return self.client.hincrby(_key(job_id, "tries"), str(part), 1)

    def set_tries(self, job_id: str, part: str | int, tries: int) -> None:
        """Notes that the part got further, or that the last try was not its fault."""
        with self._asking():
            self.client.hset(_key(job_id, "tries"), str(part), tries)

    def progress(self, job_id: str) -> Progress | None:
        """Where the job stands, or None when it is not on the board."""
        with self._asking(), self.client.pipeline(transaction=True) as pipe:
            pipe.hgetall(_key(job_id, "head"))
            pipe.lrange(_key(job_id, "ticks"), 0, -1)
            head, ticks = cast(tuple[dict[str, str], list[str]], pipe.execute())
        if "attempt" not in head:
            return None
        return Progress(
            attempt=int(head["attempt"]),
            state=cast(JobState, head["state"]),
            counts=Counts(done=int(head["done"]), failed=int(head["failed"]), skipped=int(head["skipped"])),
            chunks_left=int(head["chunks_left"]),
            started=float(head["started"]) if "started" in head else None,
            rate=_rate(ticks, now=time.time()),
        )

    def stop(self, job_id: str, stop: Stop) -> None:
        """Tells workers to stop; a cancel also lets go of what they have not begun."""
        with self._asking(), self.client.pipeline(transaction=True) as pipe:
            pipe.set(_key(job_id, "stop"), stop)
            if stop == "canceled":
                pipe.delete(_key(job_id, "todo"))
            pipe.execute()

    def stopped(self, job_id: str) -> Stop | None:
        """Whether workers shall stop, and why."""
        with self._asking():
            return cast(Stop | None, self.client.get(_key(job_id, "stop")))

    def lease(self, job_id: str, name: str | int) -> Lease:
        """The right to do a part of a job, for one worker at a time."""
        return Lease(self.client, _key(job_id, f"lease:{name}"))

    def leased(self, job_id: str, names: Iterable[str | int]) -> set[str | int]:
        """Which parts of a job are being done."""
        wanted = list(names)
        if not wanted:
            return set()
        with self._asking():
            held = cast(
                list[str | None], self.client.mget([_key(job_id, f"lease:{name}") for name in wanted])
            )
        return {name for name, holder in zip(wanted, held, strict=True) if holder is not None}

    def tell(self, job_id: str, event: str, data: str) -> None:
        """Adds to the job's events."""
        with self._asking():
            self.client.xadd(
                _key(job_id, "events"), {"event": event, "data": data}, maxlen=MAX_EVENTS, approximate=True
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        if time.monotonic() < self._away_until:
            raise unavailable(redis.TimeoutError())
        try:
            yield
        except redis.TimeoutError as error:
            self._away_until = time.monotonic() + AWAY_S
            raise unavailable(error) from error
        except redis.RedisError as error:
            raise unavailable(error) from error


def unavailable(error: Exception) -> BrokerUnavailableError:
    """What a caller is told of a broker that fails."""
    return BrokerUnavailableError(
        f"the broker of the jobs does not answer ({type(error).__name__}); jobs go on when it is back",
        retry_after_s=5,
    )


def events_key(job_id: str) -> str:
    """The stream of a job's events."""
    return _key(job_id, "events")


def _key(job_id: str, name: str) -> str:
    return f"semicap:job:{job_id}:{name}"


def _packed(counts: Counts, is_complete: bool) -> str:
    return f"[{counts.done},{counts.failed},{counts.skipped},{int(is_complete)}]"


def _rate(ticks: list[str], *, now: float) -> float | None:
    points = [(float(when), int(total)) for when, _, total in (tick.partition(" ") for tick in ticks)]
    recent = [point for point in points if point[0] > now - _RATE_OVER_S]
    if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
        return None
    return max(0.0, (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0]))
