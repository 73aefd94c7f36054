"""Near-duplicates: photos whose CLIP embeddings are close, by the embeddings that captioning needs anyway.

Within a chunk a photo that is like an earlier one may be left to that one's caption; over the whole job the
groups are found when it ends. Only earlier photos count, so that the groups do not depend on who did what.
"""

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.jobs.documents import ItemResult

MAX_COMPARED = 200_000
"""Photos of a job that looks for near-duplicates: all are compared with each other."""

Vector = NDArray[np.float32]

_BLOCK = 1024


class _Seen:
    """Photos by their embeddings."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._numbers: list[int] = []
        self._rows: Vector = np.zeros((0, 0), dtype=np.float32)

    def like(self, number: int, embedding: Vector) -> tuple[int, float] | None:
        """The first of the photos before this one that is like it, and how much."""
        if not self._numbers:
            return None
        similar = self._rows[: len(self._numbers)] @ embedding
        close = [
            (self._numbers[row], float(similar[row])) for row in np.flatnonzero(similar >= self._similarity)
        ]
        return min((one for one in close if one[0] < number), default=None)

    def add(self, number: int, embedding: Vector) -> None:
        if len(self._numbers) == len(self._rows):
            grown = np.zeros((max(_BLOCK, 2 * len(self._rows)), len(embedding)), dtype=np.float32)
            grown[: len(self._numbers)] = self._rows.reshape(-1, len(embedding))
            self._rows = grown
        self._rows[len(self._numbers)] = embedding
        self._numbers.append(number)


class ChunkLikeness:
    """Which photos of a chunk are like an earlier one, and the captions that they wait for.

    `is_new` is asked on the engine's thread, in the order of the photos; the rest on the worker's.
    """

    def __init__(self, similarity: float, known: Iterable[ItemResult]) -> None:
        self._seen = _Seen(similarity)
        self._like: dict[int, tuple[int, float]] = {}
        self._first: dict[int, ItemResult] = {}
        self._waiting: dict[int, list[ItemResult]] = {}
        for result in known:
            embedding = embedding_of(result)
            if embedding is not None and same_as(result) is None:
                self._seen.add(result.item, embedding)
                self._first[result.item] = result

    def is_new(self, number: int, embedding: Vector) -> bool:
        """Whether the photo needs a caption of its own."""
        like = self._seen.like(number, embedding)
        if like is not None:
            self._like[number] = like
            return False
        self._seen.add(number, embedding)
        return True

    def settle(self, result: ItemResult) -> Iterator[ItemResult]:
        """The results that are whole now: this one, unless it waits, and those that waited for it."""
        if result.item in self._like:
            first, similarity = self._like[result.item]
            if first in self._first:
                yield with_captions_of(result, self._first[first], similarity=similarity)
            else:
                self._waiting.setdefault(first, []).append(result)
            return
        self._first[result.item] = result
        yield result
        for waiting in self._waiting.pop(result.item, []):
            yield from self.settle(waiting)


class Groups:
    """The near-duplicates of a whole job.

    Args:
        results: in the order of the items.
    """

    def __init__(self, results: Iterable[ItemResult], *, similarity: float) -> None:
        self._seen = _Seen(similarity)
        self._names: dict[int, str] = {}
        self.members: dict[int, list[tuple[int, str, float]]] = {}
        self._first_of: dict[int, tuple[int, float]] = {}
        for result in results:
            embedding = embedding_of(result)
            if embedding is not None:
                self._add(result, embedding)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each group: the photo that is first, and those like it."""
        for first, members in sorted(self.members.items()):
            like = [
                {"item": item, "file_name": name, "similarity": round(similarity, 4)}
                for item, name, similarity in members
            ]
            yield {"item": first, "file_name": self._names[first], "duplicates": like}

    def apply(self, results: Iterable[ItemResult]) -> Iterator[ItemResult]:
        """The results, each member of a group with the captions of the first."""
        firsts: dict[int, ItemResult] = {}
        for result in results:
            if result.item in self.members:
                firsts[result.item] = result
            found = self._first_of.get(result.item)
            if found is None or result.outcome != "captioned":
                yield result
            else:
                yield with_captions_of(result, firsts[found[0]], similarity=found[1])

    def _add(self, result: ItemResult, embedding: Vector) -> None:
        like = self._like_earlier(result, embedding)
        if like is None:
            self._seen.add(result.item, embedding)
            self._names[result.item] = result.file_name
            return
        first, similarity = like
        self._first_of[result.item] = like
        self.members.setdefault(first, []).append((result.item, result.file_name, similarity))

    def _like_earlier(self, result: ItemResult, embedding: Vector) -> tuple[int, float] | None:
        """The first of its group; what a chunk has put together stays together."""
        left_to = same_as(result)
        if left_to is not None:
            item = int(left_to["item"])
            first = self._first_of[item][0] if item in self._first_of else item
            return first, float(left_to["similarity"])
        return self._seen.like(result.item, embedding)


def packed(embedding: Vector) -> str:
    """An embedding as a result keeps it: half precision, base64."""
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode()


def embedding_of(result: ItemResult) -> Vector | None:
    """A result's embedding, a unit vector, where it has one."""
    kept = (result.model_extra or {}).get("embedding")
    if kept is None:
        return None
    vector = np.frombuffer(base64.b64decode(kept), dtype="<f2").astype(np.float32)
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def same_as(result: ItemResult) -> dict[str, Any] | None:
    """Whose captions a result has, where they are not its own."""
    found: dict[str, Any] | None = (result.model_extra or {}).get("same_as")
    return found


def with_captions_of(result: ItemResult, first: ItemResult, *, similarity: float) -> ItemResult:
    """A photo's result with another's captions, or with its failure."""
    theirs = first.model_extra or {}
    if first.outcome != "captioned":
        more = {"problem": theirs["problem"], "file": theirs.get("file")}
        return ItemResult(item=result.item, file_name=result.file_name, outcome="failed", **more)
    named = {"item": first.item, "file_name": first.file_name, "similarity": round(similarity, 4)}
    return result.model_copy(update={"captions": theirs["captions"], "same_as": named})
