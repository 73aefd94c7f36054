"""The supervisor as a process of its own, with small programs in the places of API and worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import CommandError
from service.settings import Settings
from service.supervision.child import Program
from service.supervision.serve import run_service
from tests.service.supervision.test_children import is_alive, wait_for

PROGRAM = """
import os, sys
from pathlib import Path
from service.supervision.broker import embedded_broker
from service.supervision.child import Program
from service.supervision.supervisor import Supervisor

notes = Path(sys.argv[1])
api, worker = (Program(name, (sys.executable, "-c", code, str(notes / name)), 5) for name, code in
               (("api", sys.argv[2]), ("worker", sys.argv[3])))
with embedded_broker(notes / "broker") as (broker, url):
    is_ready = (notes / "api").exists
    status = Supervisor(
        broker=broker, api=api, workers=[worker], is_ready=is_ready, on_stop=lambda: None
    ).run()
sys.exit(status)
"""
RUNS = """
import os, sys, time
with open(sys.argv[1], "a") as note: note.write(f"{os.getpid()}\\n")
time.sleep(600)
"""
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + RUNS
WRONG_USE = "import sys; sys.exit(2)"

HOLDER = """
import sys
from pathlib import Path
from service.supervision.serve import only_user_of
with only_user_of(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Running:
    """A supervisor process and the notes that its children write."""

    def __init__(self, notes: Path, *, api: str = RUNS, worker: str = RUNS) -> None:
        self.notes = notes
        notes.mkdir()
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(notes), api, worker])

    def pids(self, name: str) -> list[int]:
        note = self.notes / name
        return [int(line) for line in note.read_text().split()] if note.exists() else []

    def wait_for_both(self) -> list[int]:
        wait_for(lambda: bool(self.pids("api") and self.pids("worker")))
        return [self.pids("api")[-1], self.pids("worker")[-1]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Running]]:
    """Whatever a test puts in here ends with it."""
    running: list[Running] = []
    yield running
    for one in running:
        one.process.kill()
        one.process.wait()


def run(started: list[Running], notes: Path, *, api: str = RUNS) -> Running:
    started.append(Running(notes, api=api))
    return started[-1]


def test_sigterm_ends_every_child_and_then_the_supervisor(started: list[Running], tmp_path: Path) -> None:
    running = run(started, tmp_path / "notes")
    pids = running.wait_for_both()
    running.process.terminate()
    assert running.process.wait(30) == 0
    assert not any(map(is_alive, pids))
    assert not (running.notes / "broker" / "url").exists()


def test_killed_supervisor_leaves_nothing_behind(started: list[Running], tmp_path: Path) -> None:
    running = run(started, tmp_path / "notes")
    pids = running.wait_for_both()
    running.process.kill()
    running.process.wait()
    wait_for(lambda: not any(map(is_alive, pids)))


def test_killed_child_is_started_again(started: list[Running], tmp_path: Path) -> None:
    running = run(started, tmp_path / "notes")
    api, worker = running.wait_for_both()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(running.pids("worker")) == 2)
    assert running.pids("api") == [api]
    running.process.terminate()
    assert running.process.wait(30) == 0


def test_second_interrupt_ends_a_child_that_will_not_stop(started: list[Running], tmp_path: Path) -> None:
    running = run(started, tmp_path / "notes", api=IGNORES_SIGTERM)
    pids = running.wait_for_both()
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 130
    assert not any(map(is_alive, pids))


def test_api_that_can_never_start_ends_everything_with_its_status(
    started: list[Running], tmp_path: Path
) -> None:
    running = run(started, tmp_path / "notes", api=WRONG_USE)
    assert running.process.wait(30) == 2
    assert running.pids("worker") == []


def test_second_service_on_a_data_folder_is_told_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(CommandError, match="SEMICAP_DATA_DIR"):
        run_service(Settings(data_dir=tmp_path, port=0))
    first.communicate("")


@pytest.mark.parametrize("is_open", [True, False])
def test_api_is_told_whether_others_may_be_answered(
    is_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Program] = []

    class NothingRuns:
        def __init__(self, *, api: Program, **others: object) -> None:
            started.append(api)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("service.supervision.serve.Supervisor", NothingRuns)
    given = Settings(data_dir=tmp_path, port=0, redis_url="redis://none", open_access=is_open)
    assert run_service(given) == 0
    for name, value in started[0].environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().open_access == is_open
