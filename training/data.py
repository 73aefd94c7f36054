"""Images and captions on disk, and an honest list of what was wrong with them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from training.lazy import Chosen, Mapped, TextWriter

METADATA = "metadata.jsonl"
PROBLEMS = "data-problems.json"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SHOWN_PROBLEMS = 20


class DataError(ValueError):
    """Data that cannot be used at all; the message names file and line."""


@dataclass(frozen=True)
class Problem:
    """One thing left out of a data set.

    Args:
        kind: missing image, unreadable image, duplicated image, empty caption, caption too long, no captions,
            caption without image, broken shard, unreadable caption.
        where: file and line or key, or the image's path.
    """

    kind: str
    where: str


@dataclass
class Problems:
    """What was left out while reading, for the person who owns the data. Policy: skipped, counted, listed."""

    items: list[Problem] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        self.items.append(Problem(kind, where))

    def counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        kinds = [item.kind for item in self.items]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def lines(self, limit: int = SHOWN_PROBLEMS) -> list[str]:
        """A count for each kind, then the first `limit` problems by name."""
        lines = [f"skipped {count} x {kind}" for kind, count in self.counts().items()]
        lines += [f"  {item.kind}: {item.where}" for item in self.items[:limit]]
        hidden = len(self.items) - limit
        return lines + ([f"  … and {hidden} more, all in {PROBLEMS}"] if hidden > 0 else [])

    def report(self, out: Path) -> None:
        """Prints what was left out and writes the whole list beside a run's results."""
        out.mkdir(parents=True, exist_ok=True)
        (out / PROBLEMS).write_text(json.dumps([vars(item) for item in self.items], indent=1) + "\n")
        console = Console(stderr=True)
        for line in self.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)


class ImageFile(Protocol):
    """Where one image's bytes are: a path, or a place in an archive. Its text is what problems call it."""

    def read_bytes(self) -> bytes:
        """The encoded image."""

    def stat(self) -> os.stat_result:
        """Of the file that holds it; a changed size or time means that the bytes may have changed."""


@dataclass(frozen=True)
class Images:
    """Image files and their ids, which no two share; both may lie on disk until a row is asked for."""

    ids: Sequence[str]
    files: Sequence[ImageFile]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> "Images":
        """The images at these rows, in this order."""
        return Images(Chosen(self.ids, rows), Chosen(self.files, rows))


@dataclass(frozen=True)
class CaptionedImages:
    """Images with one to many captions each; `captions[i]` belongs to `images.ids[i]`."""

    images: Images
    captions: Sequence[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Sequence[int]) -> "CaptionedImages":
        """The pairs at these rows, in this order."""
        return CaptionedImages(self.images.select(rows), Chosen(self.captions, rows))


class CaptionWriter:
    """Collects captions image by image, on disk; each image's are joined by line ends, which none has."""

    def __init__(self) -> None:
        self._writer = TextWriter()

    def append(self, captions: Sequence[str]) -> None:
        self._writer.append("\n".join(captions))

    def finish(self) -> Sequence[tuple[str, ...]]:
        """All of them, one tuple an image."""
        return Mapped(self._writer.finish(), lambda text: tuple(text.split("\n")))


def read_captioned_images(folder: Path, problems: Problems) -> CaptionedImages:
    """The labelled images that `metadata.jsonl` in a folder names.

    Each line holds `file_name` and either `captions` (a list) or `text`. A missing image, an empty caption,
    an image left without one and a second line on one image are skipped and added to `problems`.

    Raises:
        DataError: no metadata.jsonl, or a line that is not such an object.
    """
    metadata = folder / METADATA
    names, captions_of, seen = TextWriter(), CaptionWriter(), set[int]()
    for number, record in _records(metadata):
        where = f"{metadata}:{number}"
        name = record.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where}: file_name is {name!r}; each line needs the name of its image")
        captions = clean_captions(record, where, problems)
        if hash(name) in seen:
            problems.add("duplicated image", f"{where} {name}")
        elif not (folder / name).is_file():
            problems.add("missing image", f"{where} {name}")
        elif not captions:
            problems.add("no captions", f"{where} {name}")
        else:
            seen.add(hash(name))
            names.append(name)
            captions_of.append(captions)
    if not seen:
        raise DataError(f"{metadata} names no image that exists and has a caption")
    return CaptionedImages(files_below(folder, names.finish()), captions_of.finish())


def files_below(folder: Path, names: Sequence[str]) -> Images:
    """The images of these names in a folder."""
    return Images(names, Mapped(names, lambda name: folder / name))


def read_images(folder: Path, problems: Problems) -> Images:
    """Every image below a folder, sorted by path; an empty file is a problem."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    names = TextWriter()
    for name in _walk(folder):
        if (folder / name).stat().st_size:
            names.append(name)
        else:
            problems.add("unreadable image", f"{folder / name} is empty")
    images = files_below(folder, names.finish())
    if not images:
        raise DataError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    """Image files below a folder in the order of their paths; of one folder after the other only names."""
    for name in sorted(os.listdir(folder / prefix)):  # noqa: PTH208 - a million paths take 5 times the memory
        path = folder / prefix / name
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield prefix + name
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(folder, f"{prefix}{name}/")


def read_caption_groups(files: Sequence[Path], problems: Problems) -> list[tuple[str, ...]]:
    """The captions in jsonl files, those of one image (`source` and `image` in each line) together."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for path in files:
        for number, record in _records(path):
            image = (record.get("source"), record["image"]) if "image" in record else (path, number)
            groups.setdefault(image, []).extend(clean_captions(record, f"{path}:{number}", problems))
    return [tuple(captions) for captions in groups.values()]


def read_texts(files: Sequence[Path], problems: Problems) -> list[str]:
    """The captions in jsonl files that have `text` in each line; empty ones are problems."""
    texts: list[str] = []
    for path in files:
        for number, record in _records(path):
            texts += clean_captions(record, f"{path}:{number}", problems)
    return texts


def sample_rows(total: int, *, count: int, seed: int) -> list[int]:
    """`count` of `total` rows chosen by the seed, in their old order; all of them for 0."""
    if count == 0 or count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _record(line, f"{path}:{number}")


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is {type(record).__name__}, not an object with file_name and captions")
    return record


def clean_captions(record: Mapping[str, Any], where: str, problems: Problems) -> tuple[str, ...]:
    """The captions that a record holds as `captions` or `text`, their spaces tidied, without empty ones."""
    captions = record["captions"] if "captions" in record else [record.get("text")]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: captions must be a list of strings, or text a string")
    kept = tuple(" ".join(caption.split()) for caption in captions)
    for _ in range(kept.count("")):
        problems.add("empty caption", where)
    return tuple(caption for caption in kept if caption)
