"""Server folders as datasets: below configured roots only, after links are resolved; nothing is copied."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.photo_names import PHOTO_SUFFIXES
from service.errors import (
    FileLeftOutError,
    FolderNotAllowedError,
    InvalidDatasetError,
    InvalidRequestError,
    UnreadableFileError,
)
from service.jobs.datasets import DatasetWriter, is_unicode
from service.jobs.documents import Dataset, Item
from service.jobs.store import ArtifactStore


def dataset_of_folder(folder: str, *, store: ArtifactStore, roots: Sequence[Path], max_items: int) -> Dataset:
    """A dataset of the photos in a folder and its subfolders, sorted by name.

    Raises:
        InvalidRequestError: it is no path from / on.
        FolderNotAllowedError: it is not below one of `roots`.
        InvalidDatasetError: it is no folder, or has no or too many photos.
    """
    root = allowed_folder(folder, roots)
    writer = DatasetWriter(store, max_items=max_items, folder=root)
    for path in _photos_below(root):
        name = path.relative_to(root).as_posix()
        if not path.resolve().is_relative_to(root):
            writer.reject(name, FileLeftOutError("a link that leads out of the folder"))
            continue
        if not is_unicode(name):
            writer.reject(name, FileLeftOutError("its name is not UTF-8; rename it"))
            continue
        try:
            facts = path.stat()
        except OSError as error:
            writer.reject(name, UnreadableFileError(error.strerror or str(error)))
            continue
        if not stat.S_ISREG(facts.st_mode):
            writer.reject(name, FileLeftOutError("a pipe or device, not a file"))
            continue
        writer.add(Item(name=name, num_bytes=facts.st_size, modified_ns=facts.st_mtime_ns))
    return writer.finish()


def allowed_folder(folder: str, roots: Sequence[Path]) -> Path:
    """The folder with links resolved. Raises as dataset_of_folder."""
    if not Path(folder).is_absolute() or "\0" in folder:
        raise InvalidRequestError(
            f"the folder is {folder[:200]!r}; it must be a whole path, from / on, below a folder of "
            "SEMICAP_DATASET_ROOTS"
        )
    path = Path(folder).resolve()
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise FolderNotAllowedError(
            f"{folder[:200]!r} is not below a folder of SEMICAP_DATASET_ROOTS; the operator sets it, "
            "or upload the photos"
        )
    if not os.path.isdir(path):  # noqa: PTH112  - of a name that is too long Path.is_dir makes an OSError
        raise InvalidDatasetError(f"{folder[:200]!r} is not a folder")
    return path


def _photos_below(root: Path) -> Iterator[Path]:
    """Without following linked folders, so that no loop of links is endless."""
    for parent, folders, files in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:  # noqa: PTH122
                yield Path(parent) / name
