"""The photos of a run: each looked at once, copied beside the run, and split by content into two parts."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from models.photo_names import PHOTO_SUFFIXES
from service.errors import ServiceError, StoreUnavailableError, UnreadableFileError
from service.images import ImageLimits, read_image
from service.jobs.datasets import Datasets, path_of
from service.jobs.documents import Dataset, Item, ItemResult
from service.jobs.failures import failed_result
from service.reading_ahead import read_ahead

HELD_OUT_SHARE = 0.1
FEWEST_HELD_OUT, MOST_HELD_OUT = 20, 500

_NEEDED_EDGE = 224
"""A photo is decoded to see that it can be; a JPEG at this size."""


@dataclass(frozen=True)
class Photo:
    """A readable photo that lies in the run's folder.

    Args:
        number: of the dataset's item.
        name: of the item.
        sha256: of the file's bytes.
    """

    number: int
    name: str
    sha256: str
    path: Path


class PhotoReader:
    """Looks at a dataset's photos and puts the good ones into a folder."""

    def __init__(self, datasets: Datasets, limits: ImageLimits, *, threads: int) -> None:
        self._datasets = datasets
        self._limits = limits
        self._threads = threads

    def collect(
        self, dataset: Dataset, numbers: Sequence[int], folder: Path
    ) -> tuple[list[Photo], list[ItemResult]]:
        """The different readable photos of these items, and what became of all of them."""
        folder.mkdir(parents=True, exist_ok=True)
        photos: list[Photo] = []
        results: list[ItemResult] = []
        first_of: dict[str, str] = {}
        for number, item, future in self._read(dataset, numbers, folder):
            try:
                photo = future.result()
            except StoreUnavailableError:
                raise
            except ServiceError as error:
                results.append(failed_result(dataset, number, item, error))
                continue
            first = first_of.setdefault(photo.sha256, item.name)
            if first != item.name:
                more: dict[str, Any] = {"reason": f"the same photo as {first}"}
                results.append(ItemResult(item=number, file_name=item.name, outcome="skipped", **more))
                photo.path.unlink()
                continue
            photos.append(photo)
            results.append(ItemResult(item=number, file_name=item.name, outcome="used"))
        return photos, results

    def _read(
        self, dataset: Dataset, numbers: Sequence[int], folder: Path
    ) -> Iterator[tuple[int, Item, "Future[Photo]"]]:
        def read(numbered: tuple[int, Item]) -> Photo:
            return self._photo(dataset, *numbered, folder)

        with ThreadPoolExecutor(self._threads) as pool:
            items = self._datasets.items(dataset.id, numbers)
            for (number, item), future in read_ahead(items, read, pool=pool, threads=self._threads):
                yield number, item, future

    def _photo(self, dataset: Dataset, number: int, item: Item, folder: Path) -> Photo:
        try:
            data = self._datasets.read(dataset, item, max_bytes=self._limits.max_bytes)
        except OSError as error:
            raise UnreadableFileError(f"the file cannot be read: {error.strerror or error}") from error
        _, facts = read_image(data, limits=self._limits, needed_edge=_NEEDED_EDGE)
        suffix = PurePosixPath(item.name).suffix.lower()
        path = folder / f"{number:07d}{suffix if suffix in PHOTO_SUFFIXES else '.jpg'}"
        path.unlink(missing_ok=True)
        if dataset.folder is not None:
            path.symlink_to(path_of(dataset, item))
        else:
            path.write_bytes(data)
        return Photo(number, item.name, facts.sha256, path)


def fingerprint_of(photos: Sequence[Photo]) -> str:
    """Of the photos' content, whatever their names and order; the split follows from it."""
    digests = sorted(photo.sha256 for photo in photos)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def split(photos: Sequence[Photo], fingerprint: str) -> tuple[list[Photo], list[Photo]]:
    """Photos to train on, and those held out: a tenth, at least 20, at most 500, at most half."""
    count = min(max(round(HELD_OUT_SHARE * len(photos)), FEWEST_HELD_OUT), MOST_HELD_OUT, len(photos) // 2)
    ordered = by_content(photos, fingerprint)
    held_out = {photo.number for photo in ordered[:count]}
    return [one for one in photos if one.number not in held_out], ordered[:count]


def by_content(photos: Sequence[Photo], salt: str) -> list[Photo]:
    """In an order that depends on the photos' content alone."""
    return sorted(photos, key=lambda photo: hashlib.sha256(f"{salt}{photo.sha256}".encode()).digest())


def place(photos: Sequence[Photo], folder: Path) -> None:
    """Moves photos into a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        photo.path.rename(folder / photo.path.name)


def write_results(results: Sequence[ItemResult], path: Path) -> None:
    """A line each, whole or not at all."""
    scratch = path.with_suffix(".writing")
    lines = (json.dumps(result.model_dump(mode="json"), ensure_ascii=False) for result in results)
    scratch.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(scratch, path)  # noqa: PTH105
