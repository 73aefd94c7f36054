"""How many requests a client may send: counted in memory, or in Redis for several processes."""

import time
from functools import lru_cache

import structlog
from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool

_REDIS_TIMEOUT_S = 0.5
_REDIS_CONNECTIONS = 16

log = structlog.stdlib.get_logger("semicap.rate_limits")


def check_rate(text: str) -> str:
    """The rate itself.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        items = parse_many(text)
    except ValueError as error:
        raise ValueError("write a rate as '100/minute' or '5/second;1000/hour'") from error
    if any(item.amount < 1 for item in items):
        raise ValueError("a rate allows at least 1 request")
    return text


class RateLimits:
    """Counts requests of each client in sliding windows; while Redis does not answer, in memory."""

    def __init__(self, default: str | None, *, redis_url: str | None = None) -> None:
        self._default = default
        self._memory = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._connections = _connections(redis_url) if redis_url else None
        self._shared = _shared_by(self._connections) if self._connections else self._memory

    async def close(self) -> None:
        """Ends the connections to Redis."""
        if self._connections:
            await self._connections.disconnect()

    async def take(self, client: str, *, rate: str | None = None) -> float:
        """Counts one request; 0, or the seconds after which the client may send the next.

        Args:
            rate: of this client, in place of the default.
        """
        rate = rate or self._default
        if rate is None:
            return 0.0
        try:
            return await _wait_s(self._shared, rate, client)
        except StorageError as error:
            log.warning("redis_does_not_answer", error=repr(error.storage_error))
            return await _wait_s(self._memory, rate, client)


async def _wait_s(limiter: SlidingWindowCounterRateLimiter, rate: str, client: str) -> float:
    for item in _items(rate):
        if not await limiter.hit(item, client):
            reset = (await limiter.get_window_stats(item, client)).reset_time
            return max(1.0, reset - time.time())
    return 0.0


@lru_cache(maxsize=1024)
def _items(rate: str) -> tuple[RateLimitItem, ...]:
    return tuple(sorted(parse_many(rate)))


def _connections(redis_url: str) -> BlockingConnectionPool:
    return BlockingConnectionPool.from_url(
        redis_url,
        max_connections=_REDIS_CONNECTIONS,
        timeout=_REDIS_TIMEOUT_S,
        socket_timeout=_REDIS_TIMEOUT_S,
        socket_connect_timeout=_REDIS_TIMEOUT_S,
    )


def _shared_by(connections: BlockingConnectionPool) -> SlidingWindowCounterRateLimiter:
    storage = RedisStorage(
        "async+redis://",  # the connections know where
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="semicap:rate",
        connection_pool=connections,  # type: ignore[arg-type]
    )
    return SlidingWindowCounterRateLimiter(storage)
