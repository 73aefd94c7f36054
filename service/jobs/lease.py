"""A right that one process holds for as long as it lives and renews it."""

import threading
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import redis

TTL_S = 15.0
_RENEWALS = 4
"""In one TTL."""

_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])  -- also when the server has lost it
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """`with lease:` holds it if it was free; look at `is_held`.

    A broker that does not answer cannot be asked: then it counts as held, and work that two do at one time
    still has one result.
    """

    def __init__(self, client: "redis.Redis", key: str) -> None:
        self._client = client
        self._key = key
        self._token = uuid4().hex
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="semicap-lease", daemon=True)
        self.is_held = False
        self.is_lost = False
        """Whether another process holds it since: this one was away for longer than TTL_S."""

    def __enter__(self) -> Self:
        try:
            self.is_held = bool(self._client.set(self._key, self._token, nx=True, px=int(1000 * TTL_S)))
        except redis.RedisError:
            self.is_held = True
        if self.is_held:
            self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_held:
            return
        self._ended.set()
        self._renewing.join()
        self._run(_RELEASE)

    def _renew(self) -> None:
        while not self._ended.wait(TTL_S / _RENEWALS):
            if self._run(_RENEW) == 0:
                self.is_lost = True

    def _run(self, script: str) -> Any:
        try:
            return self._client.eval(script, 1, self._key, self._token, int(1000 * TTL_S))
        except redis.RedisError:
            return None  # it ends by itself
