"""Leases: one holder at a time, for as long as it lives."""

import time

import pytest

from service.jobs.parts import JobParts
from tests.service.jobs.broker import RunningBroker


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.lease.TTL_S", 0.8)


def test_lease_is_held_by_one_and_free_after_it(parts: JobParts) -> None:
    board = parts.jobs.board
    with board.lease("job", 1) as first, board.lease("job", 1) as second, board.lease("job", 2) as other:
        assert (first.is_held, second.is_held, other.is_held) == (True, False, True)
        assert board.leased("job", [1, 2, 3]) == {1, 2}
    assert board.leased("job", [1, 2, 3]) == set()


def test_lease_lasts_beyond_its_time_while_its_holder_lives(parts: JobParts) -> None:
    board = parts.jobs.board
    with board.lease("job", 1):
        time.sleep(1.6)
        assert board.leased("job", [1]) == {1}


def test_lease_is_held_again_after_the_broker_lost_it(parts: JobParts, broker: RunningBroker) -> None:
    board = parts.jobs.board
    with board.lease("job", 1):
        broker.flush()
        time.sleep(0.6)
        assert board.leased("job", [1]) == {1}
    assert board.leased("job", [1]) == set()


def test_lease_of_a_holder_that_died_ends_by_itself(parts: JobParts) -> None:
    board = parts.jobs.board
    board.client.set("semicap:job:job:lease:1", "somebody who is gone", px=500)
    with board.lease("job", 1) as early:
        assert not early.is_held
    time.sleep(0.8)
    with board.lease("job", 1) as heir:
        assert heir.is_held
