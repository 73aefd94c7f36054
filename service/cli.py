"""The command `semicap`, from its first import on without a traceback when Ctrl-C comes."""

import os
import sys
from pathlib import Path

INTERRUPTED = 130


def main() -> None:
    """Runs the command line and ends the process."""
    try:
        _open_closed_streams()
        from service.commands import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def _open_closed_streams() -> None:
    """Who starts this with a stream closed hears nothing, and no file opened later gets its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the process lasts


if __name__ == "__main__":
    main()
