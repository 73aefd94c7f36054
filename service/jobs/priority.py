"""A worker that leaves the processors to whoever is waiting."""

import os
from contextlib import suppress
from pathlib import Path

NICENESS = 5

_SESSION = Path("/proc/self/autogroup")


def give_way() -> None:
    """Lowers this process's priority, beside other sessions too.

    Linux may share the processors out among sessions first (sched(7), autogroup); niceness then counts within
    a session only, and semicap serve gives each of its children one of its own.
    """
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():  # else it is somebody else's session too
        with suppress(OSError):
            _SESSION.write_text(str(NICENESS))
