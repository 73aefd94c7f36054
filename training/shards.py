"""Arrays computed once for each image, in memory-mapped files that an interrupted run goes on from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data import Images, Problems
from training.disk import writing

SHARD_ROWS = 512
"""Images in one file: seconds of work at most are lost when a run is killed."""

Arrays = Mapping[str, np.ndarray]
Compute = Callable[[Sequence[Path]], tuple[Arrays, dict[int, str]]]
"""From image files to named arrays of one row each, and the rows that could not be read with the reason."""


@dataclass(frozen=True)
class ShardedArrays:
    """Rows spread over memory-mapped files; reading a batch touches only its own rows."""

    shards: Mapping[str, tuple[np.ndarray, ...]]
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
        shape = files[0].shape[1:] if inner is None else files[0].shape[2:]
        batch = np.empty((len(rows), *shape), files[0].dtype)
        for position, row in enumerate(rows):
            stored = files[row // SHARD_ROWS][row % SHARD_ROWS]
            batch[position] = stored if inner is None else stored[inner[position]]
        return batch


def cached_arrays(
    images: Images, *, folder: Path, compute: Compute, label: str, problems: Problems
) -> tuple[ShardedArrays, list[int]]:
    """The arrays of all readable images, computed where the cache lacks them, and the rows of those images.

    A file is named by the content of its images: changed pictures are computed again, moved ones are not.

    Args:
        folder: where the files are kept; its name must tell apart whatever changes the result.
        label: shown beside the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: dict[str, list[np.ndarray]] = {}
    readable: list[int] = []
    for first, paths in _with_progress(list(_chunks(images.paths)), label):
        base = folder / _content_key(paths)
        unreadable = _read_or_compute(base, paths, compute)
        for offset, path in enumerate(paths):
            if offset in unreadable:
                problems.add("unreadable image", f"{path}: {unreadable[offset]}")
            else:
                readable.append(first + offset)
        for file in sorted(base.glob("*.npy")):
            shards.setdefault(file.stem, []).append(np.load(file, mmap_mode="r"))
    rows = np.asarray(readable, dtype=np.int64)
    return ShardedArrays({name: tuple(files) for name, files in shards.items()}, rows), readable


def _read_or_compute(base: Path, paths: Sequence[Path], compute: Compute) -> dict[int, str]:
    index = base / "unreadable.json"
    if not index.is_file():
        arrays, unreadable = compute(paths)
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


def _content_key(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def _chunks(paths: Sequence[Path]) -> Iterator[tuple[int, Sequence[Path]]]:
    for first in range(0, len(paths), SHARD_ROWS):
        yield first, paths[first : first + SHARD_ROWS]


def _with_progress(
    chunks: list[tuple[int, Sequence[Path]]], label: str
) -> Iterator[tuple[int, Sequence[Path]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=sum(len(paths) for _, paths in chunks))
        for first, paths in chunks:
            yield first, paths
            progress.advance(task, len(paths))
