"""The flags of `semicap caption`, one for each caption option."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from service.engine.options import CaptionOptions
from service.errors import CommandError
from service.offline.command import CaptionCommand
from service.offline.outputs import OutputError
from service.offline.photo_files import NoSuchPhotoError
from service.option_reading import options_from_json
from service.settings import read_settings

caption_app = typer.Typer(add_completion=False, rich_markup_mode=None)


def caption(
    paths: Annotated[list[str], typer.Argument(help="Files, folders and glob patterns.", metavar="PATH")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
    output: Annotated[Path | None, typer.Option(help="JSONL file to write, or to go on with.")] = None,
    sidecar: Annotated[Literal["txt"] | None, typer.Option(help="Write a .txt beside each photo.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace sidecars that are there.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder or name of the model [SEMICAP_CHECKPOINT].")
    ] = None,
    **options: Any,
) -> int:
    """Caption photos without a server.

    With --output or --sidecar the same command goes on where it was stopped: a photo with a line there, or
    with a sidecar, is done.
    """
    command = CaptionCommand(
        tuple(paths),
        options_from_json(options),
        output=output,
        prints_json=as_json,
        writes_sidecars=sidecar is not None,
        overwrites=overwrite,
    )
    try:
        return command.run(read_settings(checkpoint=checkpoint))
    except BrokenPipeError:
        raise  # ends the command without a word
    except (NoSuchPhotoError, OutputError, OSError) as error:
        raise CommandError(str(error)) from error


def _with_option_flags(command: Callable[..., int]) -> Callable[..., int]:
    """Gives `command` a flag for each field of CaptionOptions, in the place of its **options."""
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    hints = get_type_hints(CaptionOptions)
    flags = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                hints[field.name],
                typer.Option(f"--{field.name.replace('_', '-')}", help=field.metadata["about"]),
            ],
        )
        for field in fields(CaptionOptions)
    ]
    command.__signature__ = inspect.Signature([*own, *flags], return_annotation=int)  # type: ignore[attr-defined]
    return command


caption_app.command(epilog="Example: semicap caption PHOTOS/ --sidecar txt")(_with_option_flags(caption))
