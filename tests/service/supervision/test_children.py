"""Children of the supervisor: they die with it, start again when they die, and end in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.supervision.child import Child, Program

WAIT_S = 30
SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def lifeline() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(writing)
    os.close(reading)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("way", ["exec", "guard"])
def test_child_dies_with_a_parent_that_is_killed(tmp_path: Path, way: str) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"""
import os, subprocess, sys, time
reading, writing = os.pipe()
value = str(os.getpid()) if {way!r} == "exec" else str(reading)
leash = [sys.executable, "-m", "service.supervision.leash", {way!r}, value]
subprocess.Popen([*leash, sys.executable, "-c", {child!r}], pass_fds=(reading,))
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(lambda: note.exists() and bool(note.read_text()))
    pid = int(note.read_text())
    assert is_alive(pid)
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(pid))


def test_guard_passes_sigterm_on_and_tells_the_exit_status() -> None:
    reading, writing = os.pipe()
    handles = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); "
    code = handles + "print('up', flush=True); time.sleep(600)"
    guard = [sys.executable, "-m", "service.supervision.leash", "guard", str(reading)]
    process = subprocess.Popen(
        [*guard, sys.executable, "-c", code], pass_fds=(reading,), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.wait(WAIT_S) == 7
    process.stdout.close()
    os.close(reading)
    os.close(writing)


def test_child_that_ends_starts_again_with_growing_pauses(
    lifeline: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("service.supervision.child.FIRST_PAUSE_S", 0.01)
    starts: list[int] = []
    program = Program("short", (sys.executable, "-c", "raise SystemExit(3)"), 1, before_start=starts.append)
    child = Child(program, lifeline=lifeline)

    def three_starts() -> bool:
        child.tend()
        return len(starts) >= 3

    wait_for(three_starts)
    assert starts[:3] == [0, 1, 2], "each start is told how many failed before it"
    wait_for(lambda: child.returncode == 3)
    child.kill()


def test_killed_child_is_gone_when_kill_returns(lifeline: int) -> None:
    child = Child(Program("sleeper", SLEEPER, 1), lifeline=lifeline)
    child.tend()
    assert child.is_running
    child.kill()
    assert child.returncode == -signal.SIGKILL
