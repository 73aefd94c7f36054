"""Datasets in the store: a head, its items in files of a thousand, and the photos by their content."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from service.errors import (
    DatasetNotFoundError,
    InvalidDatasetError,
    PhotoLostError,
    ServiceError,
    StoreUnavailableError,
)
from service.jobs.bucket import Bucket
from service.jobs.dataset_captions import captions_key
from service.jobs.documents import Dataset, Item, Rejected, new_id, now
from service.jobs.store import ArtifactStore
from service.problems import problem_of

ITEMS_PER_FILE = 1000
MAX_LISTED_REJECTIONS = 1000

YOUNG = timedelta(hours=1)
"""A photo that was written within this time may belong to a dataset that is still being uploaded."""

_CACHED_FILES = 16
_CACHED_BUCKETS = 16


class DatasetWriter:
    """Collects the items of a new dataset; nothing is visible before `finish`."""

    def __init__(
        self, store: ArtifactStore, *, max_items: int, folder: Path | None = None, uri: str | None = None
    ) -> None:
        self.id = new_id("ds")
        self._store = store
        self._max_items = max_items
        self._folder = folder
        self._uri = uri
        self._waiting: list[Item] = []
        self._num_items = 0
        self._num_bytes = 0
        self._rejected: list[Rejected] = []
        self._num_rejected = 0

    def add_photo(self, name: str, data: bytes) -> None:
        """Keeps the photo's bytes and lists it."""
        digest = hashlib.sha256(data).hexdigest()
        key = image_key(digest)
        if _is_old(self._store.modified(key)):
            self._store.put(key, data)  # young, also again: retention leaves it until this dataset is there
        self.add(Item(name=name, num_bytes=len(data), sha256=digest))

    def add_captions(self, pieces: Iterable[bytes]) -> None:
        """Keeps the metadata.jsonl that came with the photos."""
        self._store.write(captions_key(self.id), pieces)

    def add(self, item: Item) -> None:
        """Lists an item.

        Raises:
            InvalidDatasetError: there are too many.
        """
        if self._num_items >= self._max_items:
            raise InvalidDatasetError(f"the dataset has more than {self._max_items} photos; split it")
        self._num_items += 1
        self._num_bytes += item.num_bytes
        self._waiting.append(item)
        if len(self._waiting) == ITEMS_PER_FILE:
            self._write_items()

    def reject(self, name: str, error: ServiceError) -> None:
        """Notes a file that is left out, and why; a name that cannot be shown as it is in ASCII."""
        self._num_rejected += 1
        if len(self._rejected) < MAX_LISTED_REJECTIONS:
            shown = name[:1024] if name and is_unicode(name) else ascii(name[:1024])
            self._rejected.append(Rejected(name=shown, problem=problem_of(error)))

    def finish(self) -> Dataset:
        """Makes the dataset visible.

        Raises:
            InvalidDatasetError: it has no photo; the message says what was left out.
        """
        if not self._num_items:
            first = self._rejected[0] if self._rejected else None
            left_out = f"; the first of {self._num_rejected} left out: "
            why = f"{left_out}{first.name}: {first.problem.detail}" if first else ""
            raise InvalidDatasetError(f"there is no photo in it{why}")
        if self._waiting:
            self._write_items()
        dataset = Dataset(
            id=self.id,
            created=now(),
            num_items=self._num_items,
            num_bytes=self._num_bytes,
            folder=str(self._folder) if self._folder else None,
            uri=self._uri,
            num_rejected=self._num_rejected,
            rejected=tuple(self._rejected),
        )
        self._store.put(_head_key(self.id), dataset.to_bytes())
        return dataset

    def _write_items(self) -> None:
        number = (self._num_items - 1) // ITEMS_PER_FILE
        lines = b"".join(item.to_bytes() + b"\n" for item in self._waiting)
        self._store.put(_items_key(self.id, number), lines)
        self._waiting.clear()


class Datasets:
    """The datasets of a store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._file = lru_cache(maxsize=_CACHED_FILES)(self._read_file)
        self._bucket = lru_cache(maxsize=_CACHED_BUCKETS)(Bucket)

    def get(self, dataset_id: str) -> Dataset:
        """A dataset's head.

        Raises:
            DatasetNotFoundError: there is none of that id.
        """
        found = self._store.get(_head_key(dataset_id)) if is_id(dataset_id) else None
        if found is None:
            raise DatasetNotFoundError(f"there is no dataset {dataset_id[:64]!r}")
        return Dataset.model_validate_json(found)

    def ids(self) -> list[str]:
        """Every dataset, the oldest first."""
        return self._store.folders("datasets")

    def photos(self, dataset_id: str) -> Iterator[str]:
        """SHA-256 of the photos that the store holds for a dataset, of one whose upload runs too."""
        for key in self._store.keys(f"datasets/{dataset_id}/items"):
            for line in (self._store.get(key) or b"").splitlines():
                sha256 = json.loads(line).get("sha256")
                if sha256 is not None:
                    yield sha256

    def items(self, dataset_id: str, numbers: Iterable[int]) -> Iterator[tuple[int, Item]]:
        """Items by number."""
        for number in numbers:
            yield number, self._file(dataset_id, number // ITEMS_PER_FILE)[number % ITEMS_PER_FILE]

    def read(self, dataset: Dataset, item: Item, *, max_bytes: int) -> bytes:
        """An item's bytes, one more than `max_bytes` at most where they lie in a folder or bucket.

        Raises:
            OSError: the file of a server folder or bucket cannot be read.
            StoreUnavailableError: store or bucket does not answer.
            PhotoLostError: the store lacks a photo that it took.
        """
        if dataset.folder is not None:
            with path_of(dataset, item).open("rb") as file:
                return file.read(max_bytes + 1)
        if dataset.uri is not None:
            return self._bucket(dataset.uri).read(item.name, max_bytes=max_bytes)
        data = self._store.get(image_key(item.sha256 or ""))
        if data is None:
            raise PhotoLostError(f"the artifact store has lost the photo {item.name}")
        return data

    def fingerprint_now(self, dataset: Dataset, item: Item) -> list[int] | None:
        """As `fingerprint`, asking the bucket."""
        if dataset.uri is not None:
            return self._bucket(dataset.uri).facts(item.name)
        return fingerprint(dataset, item)

    def _read_file(self, dataset_id: str, number: int) -> list[Item]:
        lines = self._store.get(_items_key(dataset_id, number))
        if lines is None:
            raise StoreUnavailableError(f"the artifact store has lost items of the dataset {dataset_id}")
        return [Item.model_validate(json.loads(line)) for line in lines.splitlines()]


def _is_old(modified: datetime | None) -> bool:
    return modified is None or now() - modified > YOUNG


def path_of(dataset: Dataset, item: Item) -> Path:
    """Where a server folder's photo lies."""
    return Path(dataset.folder or "") / item.name


def fingerprint(dataset: Dataset, item: Item) -> list[int] | None:
    """Size and time of a server folder's file now, or of a bucket's when it was listed.

    None where there is no file, or the store holds the photo.
    """
    if dataset.uri is not None:
        return [item.num_bytes, item.modified_ns or 0]
    if dataset.folder is None:
        return None
    try:
        facts = path_of(dataset, item).stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns]


def is_id(text: str) -> bool:
    """Whether a text from outside may be part of a key."""
    return len(text) <= 64 and text.replace("-", "").isalnum() and text.isascii()


def is_unicode(name: str) -> bool:
    """Whether a file's name was UTF-8; Python has surrogates for the bytes of one that was not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_key(sha256: str) -> str:
    """Where a photo of this content lies."""
    return f"images/{sha256[:2]}/{sha256}"


def _head_key(dataset_id: str) -> str:
    return f"datasets/{dataset_id}/dataset.json"


def _items_key(dataset_id: str, number: int) -> str:
    return f"datasets/{dataset_id}/items/{number:06d}.jsonl"
