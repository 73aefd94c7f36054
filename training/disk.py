"""Writes that are whole or not at all, and that say in one line what could not be written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_WRITING, _DROPPED = ".writing-", ".dropped-"


class WriteError(RuntimeError):
    """Something could not be written, mostly for lack of space; what was there before is untouched."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names `path` and the space left when what is done inside fails to write.

    Raises:
        WriteError: in place of OSError and SafetensorError.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WriteError(
            f"{path} could not be written: {reason} ({free_bytes(path) / 1e6:.1f} MB are free there)"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Writes a text file; a kill or a full disk leaves the old one, two writers at once leave a whole one."""
    scratch = path.with_name(f"{_WRITING}{os.getpid()}-{path.name}")
    with writing(path):
        try:
            scratch.write_text(text, encoding="utf-8")
            flush(scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def escaped(text: str) -> str:
    """What UTF-8 cannot hold, the odd bytes of a file name, as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `final` when all is written; nothing is left of a failed one."""
    scratch = final.with_name(f"{_WRITING}{final.name}")
    with writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
            for path in (*scratch.iterdir(), scratch):
                flush(path)
            if final.exists():
                drop_folder(final)
            scratch.rename(final)
            flush(final.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def drop_folder(folder: Path) -> None:
    """Deletes a folder that a kill in the middle must not leave half there."""
    hidden = folder.with_name(f"{_DROPPED}{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def clear_leftovers(folder: Path, *patterns: str) -> None:
    """Deletes what killed runs were writing or dropping below a folder, and what fits the patterns."""
    for pattern in (f"{_WRITING}*", f"{_DROPPED}*", *patterns):
        for leftover in folder.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """Space left where a path lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def flush(path: Path) -> None:
    """Returns when a file or folder is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
