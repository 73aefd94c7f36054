"""Sequences of millions of rows that stay on disk, or are made when a row is asked for."""

import mmap
import tempfile
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload

import numpy as np

T = TypeVar("T")
S = TypeVar("S")


class LazySequence(Sequence[T]):
    """A sequence by its length and its rows; equal to any sequence of equal rows."""

    @abstractmethod
    def row(self, index: int) -> T:
        """The row at an index from 0 to the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        rows = range(len(self))[index]
        return [self.row(row) for row in rows] if isinstance(rows, range) else self.row(rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Chosen(LazySequence[T]):
    """Some rows of a sequence, in any order; 8 bytes a row."""

    def __init__(self, base: Sequence[T], rows: Sequence[int]) -> None:
        self._base = base
        self._rows = np.asarray(rows, dtype=np.int64)
        if isinstance(base, Chosen):
            self._base, self._rows = base._base, base._rows[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> T:
        return self._base[int(self._rows[index])]


class Joined(LazySequence[T]):
    """Sequences one after the other."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> T:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - self._ends[part]]


class Mapped(LazySequence[T], Generic[S, T]):
    """A sequence with a function applied to each row when it is asked for."""

    def __init__(self, base: Sequence[S], make: Callable[[S], T]) -> None:
        self._base, self._make = base, make

    def __len__(self) -> int:
        return len(self._base)

    def row(self, index: int) -> T:
        return self._make(self._base[index])


class DiskTexts(LazySequence[str]):
    """Texts in a memory-mapped file; 8 bytes of memory a row."""

    def __init__(self, content: "mmap.mmap | bytes", ends: "array[int]") -> None:
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def row(self, index: int) -> str:
        return self._content[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")


class TextWriter:
    """Texts written one after the other into an unnamed temporary file, gone with the process."""

    def __init__(self) -> None:
        self._file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the writer
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        content = text.encode("utf-8", "surrogateescape")
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def finish(self) -> DiskTexts:
        """All of them; nothing can be added after."""
        self._file.flush()
        content: mmap.mmap | bytes = b""
        if self._ends[-1]:
            content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file.close()
        return DiskTexts(content, self._ends)
