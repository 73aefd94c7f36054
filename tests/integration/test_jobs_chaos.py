"""Real workers and a real broker, killed at random moments: one result for each item in the end.

SEMICAP_CHAOS_KILLS and SEMICAP_CHAOS_SEED ask for more, and for other moments.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.jobs.parts import JobParts
from service.settings import Settings
from service.supervision.child import Child, Program
from tests.integration.fake_worker import ITEM_S
from tests.service.jobs.broker import RunningBroker, running_broker
from tests.service.jobs.conftest import dataset_of, job_on, photo_folder

KILLS = int(os.environ.get("SEMICAP_CHAOS_KILLS", "6"))
SEED = int(os.environ.get("SEMICAP_CHAOS_SEED", "20231115"))
ITEMS_PER_KILL = 60
SAVE_S = 0.5
WORKING_AGAIN_S = 40
"""A blow falls when the workers are at work again, or after this long."""

END_S = 240 + 30 * KILLS
GOOD, BROKEN = 120 + ITEMS_PER_KILL * KILLS - 12, 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(END_S + 60)]


class Workers:
    """Two worker processes, started again whenever they have ended."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lifeline, self._held = os.pipe()
        self._program = Program(
            "worker", (sys.executable, "-m", "tests.integration.fake_worker"), 10, environment=environment
        )
        self.children = [self._new() for _ in range(2)]
        self.restarts = 0

    def tend(self) -> None:
        for child in self.children:
            child.tend()

    def kill(self, index: int) -> None:
        self.children[index].kill()
        self._replace(index)

    def leave(self, index: int) -> None:
        """SIGTERM: the worker finishes the item in hand and gives back the rest."""
        child = self.children[index]
        was_running = child.is_running
        child.terminate()
        end = time.monotonic() + 30
        while child.is_running and time.monotonic() < end:
            time.sleep(0.05)
        assert not was_running or child.returncode in (0, -signal.SIGTERM), child.returncode
        self._replace(index)

    def end(self) -> None:
        for child in self.children:
            child.kill()
        os.close(self._held)
        os.close(self._lifeline)

    def _replace(self, index: int) -> None:
        self.children[index] = self._new()
        self.restarts += 1

    def _new(self) -> Child:
        return Child(self._program, lifeline=self._lifeline)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with running_broker(tmp_path_factory.mktemp("chaos-broker")) as broker:
        yield broker


@pytest.fixture
def workers(broker: RunningBroker, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(
        {
            "SEMICAP_REDIS_URL": broker.url,
            "SEMICAP_DATA_DIR": str(tmp_path / "data"),
            "SEMICAP_JOB_SAVE_S": str(SAVE_S),
            "SEMICAP_LOG_LEVEL": "warning",
            "ITEMS_LOG": str(tmp_path / "items.log"),
        }
    )
    yield workers
    workers.end()


def test_every_item_has_one_result_whatever_is_killed(
    broker: RunningBroker, workers: Workers, tmp_path: Path
) -> None:
    parts = JobParts.build(Settings(data_dir=tmp_path / "data", redis_url=broker.url))
    dataset = dataset_of(parts, photo_folder(tmp_path / "photos", good=GOOD, broken=BROKEN))
    job = job_on(dataset, chunk_items=20)
    parts.jobs.submit(job)
    parts.keeper.start()
    rng = random.Random(SEED)

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            workers.tend()
            time.sleep(0.05)

    def broker_away() -> None:
        broker.kill()
        wait(rng.uniform(0.5, 3))
        broker.start()

    def everything() -> None:
        broker.kill()
        for index in range(2):
            workers.kill(index)
        broker.start()

    def all_lost() -> None:
        broker.flush()

    blows: list[Callable[[], None]] = [
        lambda: workers.kill(0),
        lambda: workers.kill(1),
        lambda: workers.leave(rng.randrange(2)),
        broker_away,
        everything,
        all_lost,
    ]
    for number in range(KILLS):
        settled = _settled(parts, job.id)
        give_up = time.monotonic() + WORKING_AGAIN_S
        while _settled(parts, job.id) <= settled and time.monotonic() < give_up:
            wait(0.1)
        wait(rng.uniform(0.0, 1.0))
        blows[number % len(blows) if number < len(blows) else rng.randrange(len(blows))]()
    end = time.monotonic() + END_S
    while parts.jobs.status(job.id).finished is None:
        assert time.monotonic() < end, parts.jobs.status(job.id)
        wait(0.2)

    status = parts.jobs.status(job.id)
    found = Counter(result.item for result in parts.jobs.results(job.id))
    runs = Counter((tmp_path / "items.log").read_text().split())
    repeated = sum(runs.values()) - len(runs)
    lost = GOOD + BROKEN - len(found)
    print(
        f"\nitems {GOOD + BROKEN}, restarts {workers.restarts}, lost {lost}, "
        f"duplicated {sum(found.values()) - len(found)}, run again {repeated}"
    )
    assert found == Counter(range(GOOD + BROKEN))
    assert (status.state, status.counts.done, status.counts.failed) == ("succeeded", GOOD, BROKEN)
    in_hand = int(SAVE_S / ITEM_S) + 2
    assert repeated <= 2 * in_hand * KILLS, "a kill costs each worker what it had not saved"
    parts.close()


def _settled(parts: JobParts, job_id: str) -> int:
    return parts.jobs.status(job_id).counts.total
