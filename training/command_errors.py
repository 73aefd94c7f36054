"""What the commands say when they fail: one line, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from models.clip_folder import ClipError
from models.config import ConfigError
from models.generation import OptionError
from models.manifest import CheckpointError
from training.data import DataError
from training.disk import WriteError
from training.loop import TrainingDivergedError
from training.state import ResumeError
from training.toml_reader import TrainingConfigError

EXPECTED_ERRORS = (
    TrainingConfigError,
    DataError,
    ResumeError,
    TrainingDivergedError,
    WriteError,
    CheckpointError,
    ClipError,
    ConfigError,
    OptionError,
    OSError,
)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with status 1 after an error that was to be expected, with 130 after Ctrl-C."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("stopped; go on with --resume (a recipe goes on by itself)", err=True)
        raise typer.Exit(130) from None
