"""Uploaded files to a dataset: photos as they are, archives member by member, what is left out named."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from models.photo_names import PHOTO_SUFFIXES
from service.errors import (
    FileLeftOutError,
    ImageTooLargeError,
    InvalidDatasetError,
    RequestTooLargeError,
    ServiceError,
    UnreadableFileError,
    UnsupportedImageError,
)
from service.image_formats import recognised_format
from service.jobs.archive_members import Member, file_itself, members_of
from service.jobs.dataset_captions import CAPTIONS_FILE, MAX_CAPTIONS_BYTES
from service.jobs.datasets import DatasetWriter, is_unicode
from service.sizes import size_text

ARCHIVES = ("application/zip", "application/x-zip-compressed", "application/x-tar", "application/gzip")

MAX_MEMBERS_PER_ITEM = 4
"""Members that an archive may have for each photo that a dataset may have: the rest are folders and notes."""

_MAX_RATIO = 200
_SMALL_BYTES = 1024 * 1024
"""A member below this is no bomb, whatever its ratio."""

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".cbz")
_HEADER_BYTES = 512
_PIECE_BYTES = 1024 * 1024
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class UploadLimits:
    """What one dataset may hold."""

    max_items: int
    max_bytes: int
    max_image_bytes: int


class Ingest:
    """Puts the files of one upload into a dataset, in the order they come."""

    def __init__(self, writer: DatasetWriter, limits: UploadLimits) -> None:
        self._writer = writer
        self._limits = limits
        self._names: set[str] = set()
        self._left_bytes = limits.max_bytes

    def add_file(self, name: str, file: IO[bytes]) -> None:
        """A photo, or an archive of photos.

        Raises:
            InvalidDatasetError: the archive's list of members cannot be read, or it has too many members.
            RequestTooLargeError: unpacked, it is too large.
        """
        name = name or "upload"
        try:
            members = members_of(name, file)
        except UnreadableFileError as error:
            self._writer.reject(name, error)
            return
        self._add_members(iter([file_itself(name, file)]) if members is None else members)

    def _add_members(self, members: Iterator[Member]) -> None:
        limit = MAX_MEMBERS_PER_ITEM * self._limits.max_items
        for count, member in enumerate(members, start=1):
            if count > limit:
                raise InvalidDatasetError(f"the archive has more than {limit} members")
            self._unpacked(member.num_bytes)
            self._add_member(member)

    def _unpacked(self, num_bytes: int) -> None:
        """Counts what has to be unpacked, if only to skip it."""
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            raise RequestTooLargeError(
                f"unpacked, the dataset has more than {size_text(self._limits.max_bytes)}; split it",
                max_bytes=self._limits.max_bytes,
            )

    def _add_member(self, member: Member) -> None:
        problem = member.problem or _name_problem(member.name) or self._size_problem(member)
        if problem is None and member.name in self._names:
            problem = FileLeftOutError("a second file of this name")
        try:
            if problem is not None:
                raise problem
            if member.name == CAPTIONS_FILE:
                self._add_captions(member)
            else:
                self._add_photo(member)
        except (FileLeftOutError, ImageTooLargeError, UnreadableFileError, UnsupportedImageError) as error:
            self._writer.reject(member.name, error)
        else:
            self._names.add(member.name)

    def _add_photo(self, member: Member) -> None:
        data = member.read(self._limits.max_image_bytes + 1)
        problem = _content_problem(member.name, data, self._limits.max_image_bytes)
        if problem is not None:
            raise problem
        self._writer.add_photo(member.name, data)

    def _add_captions(self, member: Member) -> None:
        """Kept aside until all of them are there: they are many more than a photo's bytes."""
        num_bytes = 0
        with tempfile.TemporaryFile() as file:
            for piece in member.pieces():
                num_bytes += len(piece)
                if num_bytes > MAX_CAPTIONS_BYTES:
                    raise _too_long_captions()
                file.write(piece)
            file.seek(0)
            self._writer.add_captions(iter(lambda: file.read(_PIECE_BYTES), b""))

    def _size_problem(self, member: Member) -> ServiceError | None:
        if member.name == CAPTIONS_FILE and member.num_bytes > MAX_CAPTIONS_BYTES:
            return _too_long_captions()
        if member.name != CAPTIONS_FILE and member.num_bytes > self._limits.max_image_bytes:
            size, limit = size_text(member.num_bytes), size_text(self._limits.max_image_bytes)
            return ImageTooLargeError(f"has {size}, more than the {limit} of a photo")
        packed = member.packed_bytes
        if packed is not None and member.num_bytes > max(_SMALL_BYTES, _MAX_RATIO * max(packed, 1)):
            return FileLeftOutError(f"unpacks to more than {_MAX_RATIO} times its size")
        return None


def _too_long_captions() -> ServiceError:
    return FileLeftOutError(f"has more than {size_text(MAX_CAPTIONS_BYTES)}, which {CAPTIONS_FILE} may have")


def _name_problem(name: str) -> ServiceError | None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or "\0" in name:
        return FileLeftOutError("its name leads out of the archive")
    if not path.name:
        return FileLeftOutError(f"{name!a} names no file")
    if len(name) > 1024:
        return FileLeftOutError("its name has more than 1024 characters")
    if not is_unicode(name):
        return FileLeftOutError(f"its name {name!a} is not UTF-8; rename it")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return FileLeftOutError("a hidden file")
    if path.suffix.lower() in _ARCHIVE_SUFFIXES:
        return FileLeftOutError("an archive inside the upload; unpack it first")
    return None


def _content_problem(name: str, data: bytes, max_bytes: int) -> ServiceError | None:
    """A file that calls itself a photo is taken even when it is broken: its job will say what is wrong."""
    if len(data) > max_bytes:
        return ImageTooLargeError(f"has more than the {size_text(max_bytes)} of a photo")
    looks_like_photo = recognised_format(data[:_HEADER_BYTES]) is not None
    if looks_like_photo or PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES:
        return None
    return UnsupportedImageError("not a photo of a format that is read here")
