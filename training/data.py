"""Images and captions on disk, and an honest list of what was wrong with them."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from training import distributed
from training.disk import replace_text
from training.lazy import Chosen, Mapped, TextWriter

PROBLEMS = "data-problems.json"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
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

    def nothing_left(self, what: str) -> DataError:
        """The error where all of `what` was left out."""
        counts = ", ".join(f"{count} x {kind}" for kind, count in self.counts().items()) or "it is empty"
        return DataError(f"nothing of {what} can be used: {counts}; {PROBLEMS} has their names")

    def lines(self, limit: int = SHOWN_PROBLEMS) -> list[str]:
        """A count for each kind, then the first `limit` problems by name."""
        lines = [f"skipped {count} x {kind}" for kind, count in self.counts().items()]
        lines += [f"  {item.kind}: {item.where}" for item in self.items[:limit]]
        hidden = len(self.items) - limit
        return lines + ([f"  … and {hidden} more, all in {PROBLEMS}"] if hidden > 0 else [])

    @contextmanager
    def reported(self, out: Path) -> Iterator[None]:
        """Reports what was left out by what is done inside, also where it finds that nothing can be used."""
        try:
            yield
        finally:
            self.report(out)

    def report(self, out: Path) -> None:
        """Prints what was left out and writes the whole list beside a run's results, in the first process."""
        if distributed.rank() > 0:
            return
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / PROBLEMS, json.dumps([vars(item) for item in self.items], indent=1) + "\n")
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
class Texts:
    """Captions without images; `sources[i]` is the file and line of `texts[i]`."""

    texts: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedImages:
    """Images with one to many captions each; `captions[i]` belongs to `images.ids[i]`.

    Args:
        sources: file and line, entry or key of each image's captions.
    """

    images: Images
    captions: Sequence[tuple[str, ...]]
    sources: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def texts(self) -> list[Texts]:
        """The captions of each image, without it."""
        return [
            Texts(captions, (self.where(row),) * len(captions)) for row, captions in enumerate(self.captions)
        ]

    def where(self, row: int) -> str:
        """The image at a row as a list of problems names it."""
        return f"{self.sources[row]} {self.images.ids[row]}"

    def select(self, rows: Sequence[int]) -> "CaptionedImages":
        """The pairs at these rows, in this order."""
        return CaptionedImages(
            self.images.select(rows), Chosen(self.captions, rows), Chosen(self.sources, rows)
        )


class CaptionedWriter:
    """Collects labelled images one by one, on disk; captions are joined by line ends, which none has."""

    def __init__(self) -> None:
        self._ids, self._captions, self._sources = TextWriter(), TextWriter(), TextWriter()
        self._seen: set[int] = set()

    def __contains__(self, id: str) -> bool:
        return hash(id) in self._seen

    def append(self, id: str, captions: Sequence[str], *, source: str) -> None:
        self._seen.add(hash(id))
        self._ids.append(id)
        self._captions.append("\n".join(captions))
        self._sources.append(source)

    def finish(self, files_of: Callable[[Sequence[str]], Sequence[ImageFile]]) -> CaptionedImages:
        """All of them; `files_of` finds the files by the ids."""
        ids = self._ids.finish()
        captions = Mapped(self._captions.finish(), lambda text: tuple(text.split("\n")))
        return CaptionedImages(Images(ids, files_of(ids)), captions, self._sources.finish())


def add_captioned(
    images: CaptionedWriter,
    folder: Path,
    name: str,
    captions: Sequence[str],
    *,
    where: str,
    problems: Problems,
) -> None:
    """Takes in an image that a caption file names, unless it is there twice, missing or without captions."""
    if name in images:
        problems.add("duplicated image", f"{where} {name}")
    elif not (folder / name).is_file():
        problems.add("missing image", f"{where} {name}")
    elif not captions:
        problems.add("no captions", f"{where} {name}")
    else:
        images.append(name, captions, source=where)


def finish_captioned(images: CaptionedWriter, folder: Path, *, named_by: Path) -> CaptionedImages:
    """The images of a caption file.

    Raises:
        DataError: there is none.
    """
    captioned = images.finish(lambda names: Mapped(names, lambda name: folder / name))
    if not captioned:
        raise DataError(f"{named_by} names no image that exists and has a caption")
    return captioned


def read_caption_groups(files: Sequence[Path], problems: Problems) -> list[Texts]:
    """The captions in jsonl files, those of one image (`source` and `image` in each line) together."""
    groups: dict[tuple[object, ...], list[tuple[str, str]]] = {}
    for path in files:
        for number, record in read_records(path):
            where = f"{path}:{number}"
            image = (record.get("source"), record["image"]) if "image" in record else (where,)
            captions = [(caption, where) for caption in clean_captions(record, where, problems)]
            groups.setdefault(image, []).extend(captions)
    return [Texts(*zip(*group, strict=True)) for group in groups.values() if group]


def read_texts(files: Sequence[Path], problems: Problems) -> Texts:
    """The captions in jsonl files that have `text` in each line; empty ones are problems."""
    texts: list[str] = []
    sources: list[str] = []
    for path in files:
        for number, record in read_records(path):
            captions = clean_captions(record, f"{path}:{number}", problems)
            texts += captions
            sources += [f"{path}:{number}"] * len(captions)
    return Texts(tuple(texts), tuple(sources))


def sample_rows(total: int, *, count: int, seed: int) -> list[int]:
    """`count` of `total` rows chosen by the seed, in their old order; all of them for 0."""
    if count == 0 or count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in a jsonl file and their line numbers."""
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


def clean_captions(record: Mapping[str, Any], where: str, problems: Problems) -> tuple[str, ...]:
    """The captions that a record holds as `captions` or `text`: spaces tidied, without unusable ones."""
    captions = record["captions"] if "captions" in record else [record.get("text")]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where}: captions must be a list of strings, or text a string")
    kept = []
    for number, caption in enumerate(captions, start=1):
        tidied = " ".join(caption.split())
        if not tidied:
            problems.add("empty caption", f"{where} caption {number}")
        elif _HALF_CHARACTER.search(tidied):
            problems.add("unreadable caption", f"{where} caption {number}: it holds half a character")
        else:
            kept.append(tidied)
    return tuple(kept)
