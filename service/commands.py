"""The subcommands of `semicap`; what one needs is imported when it runs, so that help needs no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service import release
from service.errors import WRONG_USE, CommandError, ServiceError
from service.jobs_cli import jobs_app
from service.keys_cli import keys_app
from service.models_cli import models_app
from service.settings import read_settings

app = typer.Typer(
    name="semicap",
    help="Captions for photos, each with its CLIP score; trained and adapted without labels.",
    add_completion=False,
    rich_markup_mode=None,
)

app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(jobs_app, name="jobs")

_HELP_IN_PLACE = "NoArgsIsHelpError"
"""What Typer raises, and does not export, where a group of commands is called by itself."""

_PASSED_ON: dict[Any, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}
_HAS_OWN_HELP: dict[str, Any] = {"context_settings": _PASSED_ON, "add_help_option": False}


def run(arguments: Sequence[str]) -> int:
    """Runs a command line; the exit status. An error is one line on stderr and status 2."""
    try:
        status = app(args=arguments or ["--help"], standalone_mode=False)
        return status if isinstance(status, int) else 0
    except typer.TyperException as error:
        message = error.format_message()
        if type(error).__name__ == _HELP_IN_PLACE:
            typer.echo(message, err=True)
            return WRONG_USE
    except (CommandError, ServiceError, OSError) as error:
        message = str(error)
    typer.echo(f"semicap: {' '.join(message.split())}", err=True)
    return WRONG_USE


@app.command(epilog="Example: semicap serve --port 9000")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [SEMICAP_HOST, 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port, 0 for any free one [SEMICAP_PORT, 8000].")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder or name of the model to serve [SEMICAP_CHECKPOINT].")
    ] = None,
    open_access: Annotated[
        bool, typer.Option("--open-access", help="Answer others without API keys [SEMICAP_OPEN_ACCESS].")
    ] = False,
) -> int:
    """Run the whole service: API, page, workers and broker.

    Every other setting is an environment variable (SEMICAP_...).
    """
    settings = read_settings(host=host, port=port, checkpoint=checkpoint, open_access=open_access or None)
    from service.listening import PortError
    from service.log import configure_logging
    from service.open_address import check_open_address
    from service.supervision.serve import run_service

    configure_logging(level=settings.log_level, format=settings.log_format)
    check_open_address(settings)
    try:
        return run_service(settings)
    except PortError as error:
        raise CommandError(str(error)) from error


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on [SEMICAP_HOST, 127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port, 0 for any free one [SEMICAP_PORT, 8000].")
    ] = None,
    socket_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> int:
    """Run the API and the page alone.

    SEMICAP_REDIS_URL names the broker; semicap worker does the jobs.
    """
    settings = read_settings(host=host, port=port)
    from service.api_process import run_api
    from service.open_address import check_open_address

    if socket_fd is None:  # else the supervisor has checked it
        check_open_address(settings)
    return run_api(settings, socket_fd=socket_fd, ready_fd=ready_fd)


@app.command()
def worker(
    nice: Annotated[bool, typer.Option("--nice", help="Leave the processors to others first.")] = False,
    only: Annotated[
        Literal["captions", "finetunes"] | None, typer.Option(help="Take jobs of one kind; both by default.")
    ] = None,
) -> int:
    """Run a worker, which does jobs until a signal comes.

    Any number may run. One that takes both kinds captions nothing while it fine-tunes.
    """
    settings = read_settings()
    from service.jobs.worker import run_worker

    return run_worker(settings, nice=nice, only=only)


@app.command(**_HAS_OWN_HELP)
def caption(context: typer.Context) -> int:
    """Caption photos without a server."""
    from service.offline.cli import caption_app

    return int(caption_app(args=context.args, prog_name="semicap caption", standalone_mode=False) or 0)


@app.command(**_HAS_OWN_HELP)
def train(context: typer.Context) -> int:
    """Train a vocabulary, a small CLIP, or a captioner."""
    return _run_training("train", *context.args)


@app.command(**_HAS_OWN_HELP)
def evaluate(context: typer.Context) -> int:
    """Measure a checkpoint on a data set."""
    return _run_training("evaluate", *context.args)


@app.command(epilog="Example: semicap bench PHOTOS/ --seconds 10")
def bench(
    photos: Annotated[
        str | None, typer.Argument(help="Folder, file or pattern of photos [made-up pictures].")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Seconds of captioning photos.")] = 20.0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder or name of the model [SEMICAP_CHECKPOINT].")
    ] = None,
    prints_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Measure how fast the model captions here.

    Takes about a minute.
    """
    settings = read_settings(checkpoint=checkpoint)
    from service.benchmark_cli import run_benchmark

    run_benchmark(settings, photos=photos, seconds=seconds, prints_json=prints_json)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(release())


def _run_training(*arguments: str) -> int:
    from training.cli import app as training_app

    return int(training_app(args=list(arguments), prog_name="semicap", standalone_mode=False) or 0)
