"""Webdataset shards: tar files in which key.jpg stands beside key.txt or key.json."""

import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from models.photo_names import PHOTO_SUFFIXES
from training.data import (
    CaptionedImages,
    CaptionedWriter,
    DataError,
    ImageFile,
    Images,
    Problems,
    clean_captions,
)
from training.lazy import DiskTexts, LazySequence, TextWriter

MAX_CAPTION_BYTES = 1024 * 1024
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class ShardImage:
    """An image inside a tar file, read without unpacking it."""

    shard: Path
    member: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}: {self.member}"

    def read_bytes(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def stat(self) -> os.stat_result:
        return self.shard.stat()


def find_shards(source: Path) -> list[Path]:
    """The tar files that a source means: one, those in a folder, or name-{000..009}.tar; else none.

    Raises:
        DataError: a range that names a shard which is not there.
    """
    if source.is_dir():
        return sorted(source.glob("*.tar"))
    if source.suffix != ".tar":
        return []
    shards = [source.with_name(name) for name in _expanded(source.name)]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(shards)} shards are missing, first {missing[0]}")
    return shards


def read_captioned_shards(shards: Sequence[Path], problems: Problems) -> CaptionedImages:
    """The images of shards that have a caption beside them; what is wrong with others is added to `problems`.

    Raises:
        DataError: there is none.
    """
    images, files = CaptionedWriter(), _FileWriter(shards)
    for sample in _samples(shards, problems):
        texts = _captions(sample, problems)
        if sample.image is None:
            problems.add("caption without image", sample.where)
        elif not texts:
            problems.add("no captions", sample.where)
        else:
            images.append(files.id(sample), texts, source=sample.where)
            files.append(sample, sample.image)
    return images.finish(lambda _: files.finish())


def read_image_shards(shards: Sequence[Path], problems: Problems) -> Images:
    """All images of shards; captions beside them are not read.

    Raises:
        DataError: there is none.
    """
    ids, files = TextWriter(), _FileWriter(shards)
    for sample in _samples(shards, problems):
        if sample.image is not None:
            ids.append(files.id(sample))
            files.append(sample, sample.image)
    return Images(ids.finish(), files.finish())


@dataclass
class _Sample:
    """The members of a shard that share a key."""

    shard: int
    where: str
    key: str
    image: tarfile.TarInfo | None = None
    texts: dict[str, bytes] = field(default_factory=dict)


class _FileWriter:
    """Collects where images are: a member's name, its shard, offset and size for each."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = shards
        self._members = TextWriter()
        self._places = array("q")

    def id(self, sample: _Sample) -> str:
        return f"{self._shards[sample.shard].stem}/{sample.key}"

    def append(self, sample: _Sample, image: tarfile.TarInfo) -> None:
        self._members.append(image.name)
        self._places.extend((sample.shard, image.offset_data, image.size))

    def finish(self) -> Sequence[ImageFile]:
        if not self._places:
            raise DataError(f"{self._shards[0]} and {len(self._shards) - 1} more shards have no usable image")
        return _ShardImages(self._shards, self._members.finish(), self._places)


class _ShardImages(LazySequence[ImageFile]):
    """24 bytes of memory an image, beside its name on disk."""

    def __init__(self, shards: Sequence[Path], members: DiskTexts, places: "array[int]") -> None:
        self._shards, self._members, self._places = shards, members, places

    def __len__(self) -> int:
        return len(self._members)

    def row(self, index: int) -> ShardImage:
        shard, offset, size = self._places[3 * index : 3 * index + 3]
        return ShardImage(self._shards[shard], self._members[index], offset, size)


def _samples(shards: Sequence[Path], problems: Problems) -> Iterator[_Sample]:
    for number, shard in enumerate(shards):
        seen: set[str] = set()
        for key, members in groupby(_members(shard, problems), key=lambda member: member[0]):
            sample = _Sample(number, f"{shard}: {key}", key)
            dotted = []
            for _, suffix, member, content in members:
                if content is not None:
                    sample.texts[suffix] = content
                elif suffix in PHOTO_SUFFIXES:
                    sample.image = member
                else:
                    dotted.append(f"{shard}: {member.name}")
            if dotted and sample.image is None:  # beside key.jpg, key.mask.png is more of the same photo
                for where in dotted:
                    problems.add("dots in a name", where)
            elif key in seen:
                problems.add("duplicated image", sample.where)
            else:
                seen.add(key)
                yield sample


def _members(shard: Path, problems: Problems) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes | None]]:
    """Key, what follows it, and member of each image, and of each caption with its content.

    A name's first dot ends its key, as in webdataset. A damaged shard ends early.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, _, suffix = path.name.lower().partition(".")
                key, suffix = str(path.parent / path.name[: len(stem)]), f".{suffix}"
                if member.isfile() and stem and path.suffix.lower() in PHOTO_SUFFIXES:
                    yield key, suffix, member, None
                elif member.isfile() and suffix in (".txt", ".json") and member.size <= MAX_CAPTION_BYTES:
                    yield key, suffix, member, _content(archive, member)
    except (tarfile.TarError, OSError) as error:
        problems.add("broken shard", f"{shard}: {error}")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def _captions(sample: _Sample, problems: Problems) -> tuple[str, ...]:
    """From key.txt, one a line, else from key.json's `captions`, `caption` or `text`."""
    try:
        if ".txt" in sample.texts:
            lines = sample.texts[".txt"].decode("utf-8-sig").splitlines()
            return clean_captions({"captions": lines}, sample.where, problems)
        if ".json" in sample.texts:
            return clean_captions(_record(json.loads(sample.texts[".json"])), sample.where, problems)
    except (UnicodeDecodeError, json.JSONDecodeError, DataError) as error:
        problems.add("unreadable caption", f"{sample.where}: {error}")
    return ()


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"its .json is {type(value).__name__}, not an object")
    return {"text": value["caption"]} if "caption" in value and "captions" not in value else value


def _expanded(name: str) -> list[str]:
    found = _RANGE.search(name)
    if found is None:
        return [name]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [f"{name[: found.start()]}{number:0{len(first)}d}{name[found.end() :]}" for number in numbers]
