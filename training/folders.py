"""Folders of photos, with metadata.jsonl or without."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from models.photo_names import PHOTO_SUFFIXES
from training.data import (
    CaptionedImages,
    CaptionedWriter,
    DataError,
    Images,
    Problems,
    add_captioned,
    clean_captions,
    finish_captioned,
    read_records,
)
from training.lazy import Mapped, TextWriter

METADATA = "metadata.jsonl"


def read_captioned_images(folder: Path, problems: Problems, *, images: Path | None = None) -> CaptionedImages:
    """The labelled images that `metadata.jsonl` in a folder names.

    Each line holds `file_name` and either `captions` (a list) or `text`. A missing image, an empty caption,
    an image left without one and a second line on one image are skipped and added to `problems`.

    Args:
        images: folder that the file names start from, where it is another one.

    Raises:
        DataError: no metadata.jsonl, or a line that is not such an object.
    """
    metadata, root = folder / METADATA, images or folder
    captioned = CaptionedWriter()
    for number, record in read_records(metadata):
        where = f"{metadata}:{number}"
        name = record.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where}: file_name is {name!r}; each line needs the name of its image")
        name = posixpath.normpath(name)  # ./a.jpg is a.jpg
        captions = clean_captions(record, where, problems)
        add_captioned(captioned, root, name, captions, where=where, problems=problems)
    return finish_captioned(captioned, root, named_by=metadata)


def read_images(folder: Path, problems: Problems) -> Images:
    """Every image below a folder but for hidden ones, sorted by path; an empty file is a problem."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    names = TextWriter()
    for name in _walk(folder):
        if (folder / name).stat().st_size:
            names.append(name)
        else:
            problems.add("unreadable image", f"{folder / name} is empty")
    ids = names.finish()
    if not ids:
        raise DataError(f"{folder} has no images ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return Images(ids, Mapped(ids, lambda name: folder / name))


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Image files below a folder in the order of their paths; of one folder after the other only names."""
    for name in sorted(os.listdir(folder / prefix)):  # noqa: PTH208 - a million paths take 5 times the memory
        if name.startswith("."):
            continue
        path = folder / prefix / name
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
            yield prefix + name
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(folder, f"{prefix}{name}/")
