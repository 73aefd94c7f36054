"""Arrays computed once for each image, in memory-mapped files that an interrupted run goes on from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data import DataError, ImageFile, Images, Problems
from training.disk import writing
from training.lazy import LazySequence

SHARD_ROWS = 512
"""Images in one file: seconds of work at most are lost when a run is killed."""

OPEN_FILES = 128
"""Mapped at once; each holds a file descriptor, of which a process often has no more than 1,024."""

UNREADABLE_INDEX = "unreadable.json"
"""Beside the arrays of each file, and the last of them to be written."""

Arrays = Mapping[str, np.ndarray]
Compute = Callable[[Sequence[ImageFile]], tuple[Arrays, dict[int, str]]]
"""From image files to named arrays of one row each, and the rows that could not be read with the reason."""


class MappedFiles(LazySequence[np.ndarray]):
    """Arrays on disk, mapped when they are read; those read last stay open."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._open = lru_cache(OPEN_FILES)(self._map)

    def __len__(self) -> int:
        return len(self._files)

    def row(self, index: int) -> np.ndarray:
        return self._open(index)

    def _map(self, index: int) -> np.ndarray:
        mapped: np.ndarray = np.load(self._files[index], mmap_mode="r")
        return mapped


@dataclass(frozen=True)
class ShardedArrays:
    """Rows spread over memory-mapped files; reading a batch touches only its own rows."""

    shards: Mapping[str, Sequence[np.ndarray]]
    rows: np.ndarray

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """Arrays that are in memory already; all of them have as many rows."""
        splits = {
            name: tuple(values[at : at + SHARD_ROWS] for at in range(0, len(values), SHARD_ROWS))
            for name, values in arrays.items()
        }
        return cls(splits, np.arange(len(next(iter(arrays.values())))))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: str) -> bool:
        return name in self.shards

    def read(self, name: str, indices: np.ndarray, *, inner: np.ndarray | None = None) -> np.ndarray:
        """A copy of these rows of one array; with `inner`, of one entry of each row's first axis."""
        files = self.shards[name]
        rows = self.rows[indices]
        first = files[0]
        batch = np.empty((len(rows), *first.shape[1 if inner is None else 2 :]), first.dtype)
        places = rows // SHARD_ROWS
        for place in np.unique(places).tolist():  # each file is opened once, however the rows are mixed
            stored = files[place]
            for position in np.flatnonzero(places == place):
                row = stored[rows[position] % SHARD_ROWS]
                batch[position] = row if inner is None else row[inner[position]]
        return batch


def cached_arrays(
    images: Images, *, folder: Path, compute: Compute, label: str, problems: Problems
) -> tuple[ShardedArrays, list[int]]:
    """The arrays of all readable images, computed where the cache lacks them, and the rows of those images.

    A file is named by the content of its images: changed pictures are computed again, moved ones are not. The
    content is read again only where a path, size or time has changed since it was last looked at.

    Args:
        folder: where the files are kept; its name must tell apart whatever changes the result.
        label: shown beside the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: dict[str, list[Path]] = {}
    readable: list[int] = []
    for first, files in _with_progress(images.files, label):
        base = folder / _content_key(files, folder / "seen")
        unreadable = _read_or_compute(base, files, compute)
        for offset, file in enumerate(files):
            if offset in unreadable:
                problems.add("unreadable image", f"{file}: {unreadable[offset]}")
            else:
                readable.append(first + offset)
        for array in sorted(base.glob("*.npy")):
            shards.setdefault(array.stem, []).append(array)
    rows = np.asarray(readable, dtype=np.int64)
    return ShardedArrays({name: MappedFiles(arrays) for name, arrays in shards.items()}, rows), readable


def _read_or_compute(base: Path, files: Sequence[ImageFile], compute: Compute) -> dict[int, str]:
    index = base / UNREADABLE_INDEX
    if not index.is_file():
        arrays, unreadable = compute(files)
        scratch = base.with_name(f".{base.name}-{os.getpid()}")
        try:
            with writing(base):
                scratch.mkdir(parents=True, exist_ok=True)
                for name, values in arrays.items():
                    np.save(scratch / f"{name}.npy", values)
                (scratch / index.name).write_text(json.dumps(unreadable))
                _publish(scratch, base)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return {int(offset): reason for offset, reason in json.loads(index.read_text()).items()}


def _publish(scratch: Path, base: Path) -> None:
    try:
        scratch.rename(base)
    except OSError:
        if not base.is_dir():  # else another run has finished the same images meanwhile
            raise


def _content_key(files: Sequence[ImageFile], seen: Path) -> str:
    """From the content of the images; `seen` remembers it by their paths, sizes and times."""
    stamps = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file} is gone: {error.strerror}; start again without it") from error
        stamps.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    remembered = seen / stamps.hexdigest()[:24]
    if remembered.is_file() and (key := remembered.read_text()):
        return key
    content = hashlib.sha256()
    for file in files:
        content.update(hashlib.sha256(file.read_bytes()).digest())
    key = content.hexdigest()[:24]
    seen.mkdir(exist_ok=True)
    remembered.write_text(key)
    return key


def _with_progress(files: Sequence[ImageFile], label: str) -> Iterator[tuple[int, Sequence[ImageFile]]]:
    """SHARD_ROWS files at a time, and the row of the first of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=len(files))
        for first in range(0, len(files), SHARD_ROWS):
            chunk = tuple(files[first : first + SHARD_ROWS])
            yield first, chunk
            progress.advance(task, len(chunk))
