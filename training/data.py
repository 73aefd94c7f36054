"""Images and captions on disk, and an honest list of what was wrong with them."""

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from training.disk import replace_text

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
        kind: missing image, unreadable image, duplicated image, empty caption, caption too long, no captions.
        where: file and line, or the image's path.
    """

    kind: str
    where: str


@dataclass
class Problems:
    """What was left out while reading, for the person who owns the data. Policy: skipped, counted, listed."""

    items: list[Problem] = field(default_factory=list)
    _seen: set[Problem] = field(default_factory=set, repr=False)

    def add(self, kind: str, where: str) -> None:
        """Counts a problem, once even when the same file is read for two purposes."""
        problem = Problem(kind, where)
        if problem not in self._seen:
            self._seen.add(problem)
            self.items.append(problem)

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
        replace_text(out / PROBLEMS, json.dumps([vars(item) for item in self.items], indent=1) + "\n")
        console = Console(stderr=True)
        for line in self.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Images:
    """Image files; ids are their paths below the folder, which no two share."""

    ids: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> "Images":
        """The images at these rows, in this order."""
        return Images(tuple(self.ids[row] for row in rows), tuple(self.paths[row] for row in rows))


@dataclass(frozen=True)
class Texts:
    """Captions without images; `sources[i]` is the file and line of `texts[i]`."""

    texts: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedImages:
    """Images with one to many captions each; `captions[i]` belongs to `images.ids[i]`.

    Args:
        sources: file and line of each image's captions, where the reader knows them.
    """

    images: Images
    captions: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def texts(self) -> list[Texts]:
        """The captions of each image, without it."""
        return [
            Texts(captions, (self.where(row),) * len(captions)) for row, captions in enumerate(self.captions)
        ]

    def where(self, row: int) -> str:
        """The image at a row as a list of problems names it."""
        return " ".join([*self.sources[row : row + 1], self.images.ids[row]]).strip()

    def select(self, rows: Sequence[int]) -> "CaptionedImages":
        """The pairs at these rows, in this order."""
        return CaptionedImages(
            self.images.select(rows),
            tuple(self.captions[row] for row in rows),
            tuple(self.sources[row] for row in rows) if self.sources else (),
        )


def read_captioned_folders(folders: Sequence[Path], problems: Problems) -> CaptionedImages:
    """The labelled images of several folders, one after the other."""
    parts = [read_captioned_images(folder, problems) for folder in folders]
    return CaptionedImages(
        _joined([part.images for part in parts], folders),
        tuple(captions for part in parts for captions in part.captions),
        tuple(source for part in parts for source in part.sources or ("",) * len(part)),
    )


def read_image_folders(folders: Sequence[Path], problems: Problems) -> Images:
    """The images of several folders, one after the other; captions beside them are not read."""
    return _joined([read_images(folder, problems) for folder in folders], folders)


def read_captioned_images(folder: Path, problems: Problems) -> CaptionedImages:
    """The labelled images that `metadata.jsonl` in a folder names.

    Each line holds `file_name` and either `captions` (a list) or `text`. A missing image, an empty caption,
    an image left without one and a second line on one image are skipped and added to `problems`.

    Raises:
        DataError: no metadata.jsonl, or a line that is not such an object.
    """
    metadata = folder / METADATA
    rows: dict[str, tuple[str, ...]] = {}
    sources: list[str] = []
    for number, record in _records(metadata):
        where = f"{metadata}:{number}"
        name = record.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{where}: file_name is {name!r}; each line needs the name of its image")
        name = posixpath.normpath(name)  # ./a.jpg is a.jpg
        captions = _clean_captions(record, where, problems)
        if name in rows:
            problems.add("duplicated image", f"{where} {name}")
        elif not (folder / name).is_file():
            problems.add("missing image", f"{where} {name}")
        elif not captions:
            problems.add("no captions", f"{where} {name}")
        else:
            rows[name] = captions
            sources.append(where)
    if not rows:
        raise DataError(f"{metadata} names no image that exists and has a caption")
    images = Images(tuple(rows), tuple(folder / name for name in rows))
    return CaptionedImages(images, tuple(rows.values()), tuple(sources))


def read_images(folder: Path, problems: Problems) -> Images:
    """Every image below a folder, sorted by path; an empty file is a problem."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            if path.stat().st_size:
                paths.append(path)
            else:
                problems.add("unreadable image", f"{path} is empty")
    if not paths:
        raise DataError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return Images(tuple(str(path.relative_to(folder)) for path in paths), tuple(paths))


def read_caption_groups(files: Sequence[Path], problems: Problems) -> list[Texts]:
    """The captions in jsonl files, those of one image (`source` and `image` in each line) together."""
    groups: dict[tuple[object, ...], list[tuple[str, str]]] = {}
    for path in files:
        for number, record in _records(path):
            where = f"{path}:{number}"
            image = (record.get("source"), record["image"]) if "image" in record else (where,)
            captions = [(caption, where) for caption in _clean_captions(record, where, problems)]
            groups.setdefault(image, []).extend(captions)
    return [Texts(*zip(*group, strict=True)) for group in groups.values() if group]


def read_texts(files: Sequence[Path], problems: Problems) -> Texts:
    """The captions in jsonl files that have `text` in each line; empty ones are problems."""
    texts: list[str] = []
    sources: list[str] = []
    for path in files:
        for number, record in _records(path):
            captions = _clean_captions(record, f"{path}:{number}", problems)
            texts += captions
            sources += [f"{path}:{number}"] * len(captions)
    return Texts(tuple(texts), tuple(sources))


def sample_rows(total: int, *, count: int, seed: int) -> list[int]:
    """`count` of `total` rows chosen by the seed, in their old order; all of them for 0."""
    if count == 0 or count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _record(line, f"{path}:{number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is {type(record).__name__}, not an object with file_name and captions")
    return record


def _clean_captions(record: dict[str, Any], where: str, problems: Problems) -> tuple[str, ...]:
    captions = record["captions"] if "captions" in record else [record.get("text")]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: captions must be a list of strings, or text a string")
    kept = tuple(" ".join(caption.split()) for caption in captions)
    for number, caption in enumerate(kept, start=1):
        if not caption:
            problems.add("empty caption", f"{where} caption {number}")
    return tuple(caption for caption in kept if caption)


def _joined(parts: Sequence[Images], folders: Sequence[Path]) -> Images:
    if len(parts) == 1:
        return parts[0]
    named = [
        replace(part, ids=tuple(f"{folder.name}/{id}" for id in part.ids))
        for part, folder in zip(parts, folders, strict=True)
    ]
    return Images(
        tuple(id for part in named for id in part.ids), tuple(path for part in named for path in part.paths)
    )
