"""`semicap keys`: the API keys under SEMICAP_DATA_DIR; a running service follows within seconds."""

from typing import Annotated

import typer

from service.errors import CommandError
from service.keys import KeyFileError, KeyStore, Scope
from service.rate_limits import check_rate
from service.settings import read_settings

MAX_NAME = 100

keys_app = typer.Typer(
    help="The API keys of the service in SEMICAP_DATA_DIR. Once there is one, requests need one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys_app.command("create", epilog="Example: semicap keys create ci --scope caption --scope jobs")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for you to read in the list")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; may be given several times; admin may do everything [caption]."),
    ] = None,
    rate_limit: Annotated[
        str | None, typer.Option(help="Requests it may send, as 600/minute [SEMICAP_RATE_LIMIT].")
    ] = None,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    shown = " ".join(name.split())
    if not 0 < len(shown) <= MAX_NAME or not shown.isprintable():
        raise CommandError(f"a key's name has 1 to {MAX_NAME} printable characters; it is {name!r}")
    scopes = tuple(dict.fromkeys(scope or [Scope.CAPTION]))
    try:
        if rate_limit is not None:
            check_rate(rate_limit)
        secret, key = _store().create(shown, scopes, rate_limit=rate_limit)
    except (KeyFileError, ValueError) as error:
        raise CommandError(str(error)) from error
    typer.echo(secret)
    typer.echo(f"key {key.id} may: {', '.join(scopes)}. It is not shown again; keep it safe.", err=True)


@keys_app.command("list")
def list_keys() -> None:
    """Every key ever made, the oldest first, without its secret part."""
    try:
        keys = _store().all()
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    for key in keys:
        rate = f"  {key.rate_limit}" if key.rate_limit else ""
        end = f"  revoked {key.revoked}" if key.revoked else ""
        typer.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}  created {key.created}{rate}{end}")


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="As in semicap keys list")]) -> None:
    """End a key for good; a running service refuses it within seconds."""
    try:
        key = _store().revoke(key_id)
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"key {key.id} ({key.name}) is revoked")


def _store() -> KeyStore:
    return KeyStore(read_settings().keys_file)
