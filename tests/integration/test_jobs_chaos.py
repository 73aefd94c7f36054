"""Real workers and a real broker, killed at random moments: one result for each item in the end.

SEMICAP_CHAOS=long kills ten workers and an API, keeps the broker away for a minute and more of the like;
SEMICAP_CHAOS_SEED chooses other moments.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.errors import StoreUnavailableError
from service.jobs.chunks import GIVE_UP_AFTER
from service.jobs.outputs import captioned
from service.jobs.parts import JobParts
from service.settings import Settings
from service.supervision.child import Child, Program
from tests.integration.fake_worker import ITEM_S
from tests.service.jobs.broker import RunningBroker, running_broker
from tests.service.jobs.conftest import dataset_of, job_on, photo_folder

LONG = os.environ.get("SEMICAP_CHAOS") == "long"
SEED = int(os.environ.get("SEMICAP_CHAOS_SEED", "20231115"))
BLOWS = 18 if LONG else 6
BROKER_AWAY_S = 60.0 if LONG else 3.0
DISK_FULL_S = 10.0
ITEMS_PER_BLOW = 60
SAVE_S = 0.5
WORKING_AGAIN_S = 40
"""A blow falls when the workers are at work again, or after this long."""

END_S = 300 + 60 * BLOWS
GOOD, BROKEN = 120 + ITEMS_PER_BLOW * BLOWS - 12, 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(END_S + 60)]


class Workers:
    """Two worker processes, and in the long form an API, started again whenever they have ended."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lifeline, self._held = os.pipe()
        self._program = Program(
            "worker", (sys.executable, "-m", "tests.integration.fake_worker"), 10, environment=environment
        )
        self._api_program = Program(
            "api", (sys.executable, "-m", "service.cli", "api", "--port", "0"), 10, environment=environment
        )
        self.children = [self._new() for _ in range(2)]
        self.api = Child(self._api_program, lifeline=self._lifeline) if LONG else None
        self.restarts = 0

    def tend(self) -> None:
        for child in self.children:
            child.tend()
        if self.api:
            self.api.tend()

    def kill_api(self) -> None:
        if self.api:
            self.api.kill()
            self.api = Child(self._api_program, lifeline=self._lifeline)
            self.restarts += 1

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
        for child in (*self.children, *([self.api] if self.api else [])):
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
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 64 MiB, where this user may mount one."""
    folder = tmp_path / "data"
    folder.mkdir()
    is_mounted = mount(folder)
    yield folder
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """While it lasts the next byte is one too many."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1024 * 1024, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def workers(
    broker: RunningBroker, data_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> Iterator[Workers]:
    workers = Workers(
        {
            "SEMICAP_REDIS_URL": broker.url,
            "SEMICAP_DATA_DIR": str(data_dir),
            "SEMICAP_CHECKPOINT": str(tiny_checkpoint),
            "SEMICAP_JOB_SAVE_S": str(SAVE_S),
            "SEMICAP_LOG_LEVEL": "warning",
            "ITEMS_LOG": str(tmp_path / "items.log"),
        }
    )
    yield workers
    workers.end()


def test_every_item_has_one_result_whatever_is_killed(
    broker: RunningBroker, workers: Workers, data_dir: Path, tmp_path: Path
) -> None:
    parts = JobParts.build(Settings(data_dir=data_dir, redis_url=broker.url))
    dataset = dataset_of(parts, photo_folder(tmp_path / "photos", good=GOOD, broken=BROKEN))
    job = job_on(dataset, chunk_items=20)
    parts.jobs.submit(job)
    rng = random.Random(SEED)

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            workers.tend()
            time.sleep(0.05)

    def broker_dies() -> None:
        broker.kill()
        wait(rng.uniform(0.5, 3))
        broker.start()

    def broker_away() -> None:
        broker.kill()
        wait(BROKER_AWAY_S)
        broker.start()

    def everything() -> None:
        broker.kill()
        for index in range(2):
            workers.kill(index)
        workers.kill_api()
        broker.start()

    def all_lost() -> None:
        broker.flush()

    def disk_full() -> None:
        if not data_dir.is_mount():
            print("the disk of the store was not filled: this user may mount none")
            return
        with full_disk(data_dir):
            with pytest.raises(StoreUnavailableError):
                parts.store.put("one-byte", b"x")
            wait(DISK_FULL_S)

    blows: list[Callable[[], None]] = [
        lambda: workers.kill(0),
        lambda: workers.leave(rng.randrange(2)),
        broker_away,
        everything,
        all_lost,
        disk_full,
    ]
    if LONG:
        blows += [lambda: workers.kill(rng.randrange(2))] * 9 + [broker_dies, workers.kill_api, all_lost]
        rng.shuffle(blows)
    assert len(blows) == BLOWS
    for blow in blows:
        settled = _settled(parts, job.id)
        give_up = time.monotonic() + WORKING_AGAIN_S
        while _settled(parts, job.id) <= settled and time.monotonic() < give_up:
            wait(0.1)
        wait(rng.uniform(0.0, 1.0))
        blow()
    end = time.monotonic() + END_S
    while parts.jobs.status(job.id).ended is None:
        assert time.monotonic() < end, parts.jobs.status(job.id)
        wait(0.2)

    status = parts.jobs.status(job.id)
    results = list(parts.jobs.results(job.id))
    found = Counter(result.item for result in results)
    runs = Counter((tmp_path / "items.log").read_text().split())
    repeated, most = sum(runs.values()) - len(runs), max(runs.values())
    lost = GOOD + BROKEN - len(found)
    print(
        f"\nitems {GOOD + BROKEN}, blows {BLOWS}, restarts {workers.restarts}, lost {lost}, "
        f"duplicated {sum(found.values()) - len(found)}, run again {repeated}, most runs of one item {most}"
    )
    assert found == Counter(range(GOOD + BROKEN))
    assert (status.state, status.counts.done, status.counts.failed) == ("succeeded", GOOD, BROKEN)
    texts = [row["captions"][0]["text"] for row in captioned(results)]
    assert texts == [f"a picture of {8 + n % 50} by {8 + n // 50}" for n in range(GOOD)]
    in_hand = int(SAVE_S / ITEM_S) + 2
    assert repeated <= 2 * in_hand * BLOWS, "a kill costs each worker what it had not saved"
    assert most <= GIVE_UP_AFTER
    parts.close()


def _settled(parts: JobParts, job_id: str) -> int:
    return parts.jobs.status(job_id).counts.total
