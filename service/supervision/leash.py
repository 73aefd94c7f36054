"""Runs a command that dies when its parent does, however the parent ends.

`python -m service.supervision.leash exec PARENT command…` is Linux's way: the kernel kills it with PARENT.
`python -m service.supervision.leash guard FD command…` works everywhere: a process stays between the two and
ends the command when the pipe FD, whose other end only the parent holds, is closed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str], *, lifeline: int) -> list[str]:
    """The command line that runs `command` on a leash.

    Args:
        lifeline: reading end of a pipe that the caller keeps open for as long as it lives.
    """
    way = ("exec", str(os.getpid())) if sys.platform == "linux" else ("guard", str(lifeline))
    return [sys.executable, "-m", "service.supervision.leash", *way, *command]


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit status of a guarded one."""
    way, value, *command = arguments
    if way == "exec":
        _exec(command, parent=int(value))
    return _guard(command, lifeline=int(value))


def _exec(command: Sequence[str], *, parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not tie a child to its parent")
    if os.getppid() != parent:  # it died before the leash was on
        sys.exit(0)
    os.execvp(command[0], list(command))


def _guard(command: Sequence[str], *, lifeline: int) -> int:
    child = subprocess.Popen(command, close_fds=False)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    def end_with_parent() -> None:
        while os.read(lifeline, 1):
            pass
        child.kill()

    signal.signal(signal.SIGTERM, pass_on)
    threading.Thread(target=end_with_parent, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
