"""Idempotency-Key: the same request twice makes one job, whatever dies in between."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from service.errors import (
    IdempotencyKeyReusedError,
    InvalidRequestError,
    RequestInProgressError,
    StoreUnavailableError,
)
from service.jobs.archive import JobArchive
from service.jobs.documents import Document, new_id, now

MAX_KEY_CHARS = 255
TAKEN_OVER_AFTER = timedelta(seconds=30)
"""A request that made no job for this long died on the way; the next one with its key goes on."""


class _Claim(Document):
    body_sha256: str
    job_id: str
    created: datetime


@contextmanager
def claimed_job_id(
    archive: JobArchive, key: str | None, body: Mapping[str, object]
) -> Iterator[tuple[str, bool]]:
    """The id that the job of this request has, and whether it is there already.

    Where what is done with it raises before the job is stored, the key is free again.

    Raises:
        IdempotencyKeyReusedError: the key came with another body.
        RequestInProgressError: the first request with this key is not done.
    """
    if key is None:
        yield new_id("job"), False
        return
    if not 0 < len(key) <= MAX_KEY_CHARS:
        raise InvalidRequestError(
            f"the Idempotency-Key has {len(key)} characters; it may have 1 to {MAX_KEY_CHARS}"
        )
    place = f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"
    claim, is_there = _claim(archive, place, body)
    try:
        yield claim.job_id, is_there
    except Exception:
        with suppress(StoreUnavailableError):  # then it is free after TAKEN_OVER_AFTER
            if archive.store.get(place) == claim.to_bytes() and not archive.has(claim.job_id):
                archive.store.delete([place])
        raise


def _claim(archive: JobArchive, place: str, body: Mapping[str, object]) -> tuple[_Claim, bool]:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    mine = _Claim(body_sha256=digest, job_id=new_id("job"), created=now())
    if archive.store.create(place, mine.to_bytes()):
        return mine, False
    theirs = _Claim.model_validate_json(archive.store.get(place) or mine.to_bytes())
    if theirs.body_sha256 != digest:
        raise IdempotencyKeyReusedError("this Idempotency-Key came with another body before; use a new one")
    if archive.has(theirs.job_id):
        archive.take_up(theirs.job_id)  # the first request may have died before anybody looked after it
        return theirs, True
    if now() - theirs.created < TAKEN_OVER_AFTER:
        raise RequestInProgressError(
            "the first request with this Idempotency-Key is not done", retry_after_s=2
        )
    mine = theirs.model_copy(update={"created": now()})
    archive.store.put(place, mine.to_bytes())
    return mine, False
