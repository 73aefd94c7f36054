"""The command `semicap`, from its first import on without a traceback when Ctrl-C comes."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Runs the command line and ends the process."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background it is ignored
        signal.signal(signal.SIGINT, interrupt)
    try:
        _open_closed_streams()
        from service.commands import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception:
        if not interrupts:
            raise
        status = INTERRUPTED  # an import that was cut short may fail with anything
    _drop_unwritten()
    sys.exit(status)


def _open_closed_streams() -> None:
    """Who starts this with a stream closed hears nothing, and no file opened later gets its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the process lasts


def _drop_unwritten() -> None:
    """What standard output did not take is said already; Python would try again, and end with status 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
