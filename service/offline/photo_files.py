"""Which photos a command line names."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.photo_names import PHOTO_SUFFIXES


class NoSuchPhotoError(ValueError):
    """A path that names nothing; the message says which."""


def find_photos(arguments: Iterable[str]) -> list[Path]:
    """The photos in files, folders (with subfolders) and glob patterns; sorted in each folder, each one once.

    Raises:
        NoSuchPhotoError: an argument names nothing, or there is no photo in all of them.
    """
    arguments = list(arguments)
    found = dict.fromkeys(path for argument in arguments for path in _expand(argument))
    if not found:
        raise NoSuchPhotoError(
            f"there is no photo in {', '.join(arguments)}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return list(found)


def _expand(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_dir():
        yield from _photos_below(path)
    elif path.exists():
        yield path
    else:
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches:
            raise NoSuchPhotoError(f"there is no file, folder or match for {argument!r}; check the path")
        for match in matches:
            yield from _expand(match) if Path(match).is_dir() else (Path(match),)


def _photos_below(folder: Path) -> Iterator[Path]:
    """A subfolder that cannot be listed stands for itself, so that it fails with the reason."""
    found: list[Path] = []

    def keep(error: OSError) -> None:
        found.append(Path(error.filename))

    for root, subfolders, names in os.walk(folder, onerror=keep):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(root, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in PHOTO_SUFFIXES and _may_be_file(path)]
    yield from sorted(found)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True
