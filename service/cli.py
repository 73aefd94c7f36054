"""The command `semicap`, from its first import on without a traceback when Ctrl-C comes."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Runs the command line and ends the process."""
    try:
        from service.commands import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


if __name__ == "__main__":
    main()
