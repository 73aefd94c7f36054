"""What is asked of jobs while their broker is away or hangs."""

from collections.abc import Callable
from typing import Any

import pytest
from redis.connection import AbstractConnection

from service.jobs.board import Board
from service.jobs.jobs import Jobs
from service.jobs.parts import JobParts
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.conftest import job_on, uploaded
from tests.service.jobs.fakes import InlineWorker

ANSWER_S, GIVEN_UP_S = 0.3, 600.0


def test_job_resumed_while_the_broker_is_away_goes_on_when_it_is_back(
    parts: JobParts, broker: RunningBroker
) -> None:
    job = job_on(uploaded(parts, 20))
    parts.jobs.submit(job)
    parts.jobs.pause(job.id)
    broker.kill()
    assert parts.jobs.resume(job.id).state == "queued"
    broker.start()
    assert parts.keeper.look() == {job.id: "rebuilt"}
    assert parts.keeper.look() == {}
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"


@pytest.mark.parametrize(("ask", "state"), [(Jobs.pause, "paused"), (Jobs.cancel, "canceled")])
def test_job_stopped_while_the_broker_is_away_does_no_more_when_it_is_back(
    parts: JobParts, broker: RunningBroker, ask: Callable[[Jobs, str], object], state: str
) -> None:
    job = job_on(uploaded(parts, 20))
    parts.jobs.submit(job)
    broker.kill()
    ask(parts.jobs, job.id)
    broker.start()
    parts.keeper.look()
    worker = InlineWorker(parts)
    worker.do_all()
    assert (worker.captions.done, parts.jobs.status(job.id).state) == ([], state)


def test_one_caller_waits_for_a_broker_that_hangs_and_the_next_do_not(
    parts: JobParts, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.board.AWAY_S", GIVEN_UP_S)
    board = Board.open(broker.url, connect_s=ANSWER_S, answer_s=ANSWER_S)
    jobs = Jobs(parts.jobs.archive, board, parts.jobs.queue, max_active=10)
    asked = count_asked(monkeypatch)
    with broker.hanging():
        job = job_on(uploaded(parts, 5))
        assert jobs.submit(job).state == "queued"
        once = len(asked)
        assert once > 0
        assert [jobs.status(job.id).state for _ in range(5)] == ["queued"] * 5
        assert len(asked) == once
    board.client.close()
    parts.keeper.look()
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"


def count_asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each time that a client of the broker sends it something."""
    asked: list[object] = []
    send: Any = AbstractConnection.send_packed_command

    def counted(connection: AbstractConnection, command: Any, *rest: Any, **more: Any) -> Any:
        asked.append(connection)
        return send(connection, command, *rest, **more)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    return asked
