"""Photos of this machine, sent to a service as a dataset."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import typer

from service.errors import CommandError
from service.jobs.client import JobClient
from service.jobs.dataset_captions import CAPTIONS_FILE
from service.jobs.tar_stream import tar_of
from service.offline.outputs import shown
from service.offline.photo_files import NoSuchPhotoError, find_photos


def dataset_of(client: JobClient, source: str) -> str:
    """Id of a dataset, which is sent first where it is a file or folder here.

    Raises:
        CommandError: there is no such thing, or it cannot be read or sent; a photo in a folder is left out.
    """
    path = Path(source)
    try:
        is_here = path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not is_here:
        if source.startswith("ds-"):
            return source
        raise CommandError(f"there is no {source!r} here, and a dataset's id begins with ds-")
    dataset = client.ask(
        "POST",
        "/v1/datasets",
        body=_tar_pieces(path) if path.is_dir() else _file_pieces(path),
        headers={"Content-Type": "application/x-tar" if path.is_dir() else "application/octet-stream"},
    )
    for one in dataset["rejected"]:
        typer.echo(f"left out: {one['file_name']}: {one['problem']['detail']}", err=True)
    return str(dataset["id"])


def _tar_pieces(folder: Path) -> Iterator[bytes]:
    try:
        photos = find_photos([str(folder)])
    except NoSuchPhotoError as error:
        raise CommandError(str(error)) from error
    captions = folder / CAPTIONS_FILE
    files = chain([(captions, _content(captions))] if captions.is_file() else [], _contents(photos))
    return tar_of((file.relative_to(folder).as_posix(), content) for file, content in files)


def _content(path: Path) -> bytes:
    return b"".join(_file_pieces(path))


def _contents(photos: list[Path]) -> Iterator[tuple[Path, bytes]]:
    """Each photo with what is in it; one that cannot be read is said and left out."""
    for photo in photos:
        try:
            yield photo, photo.read_bytes()
        except OSError as error:
            typer.echo(f"left out: {shown(photo)}: {error.strerror or error}", err=True)


def _file_pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(1024 * 1024):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CommandError:
    return CommandError(f"{shown(path)} cannot be read ({error.strerror or error}); nothing was submitted")
