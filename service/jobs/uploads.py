"""Uploaded files to a dataset: photos as they are, zip and tar member by member, never unpacked to disk."""

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

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
from service.jobs.dataset_captions import CAPTIONS_FILE
from service.jobs.datasets import DatasetWriter
from service.offline.photo_files import EXTENSIONS

ARCHIVES = ("application/zip", "application/x-zip-compressed", "application/x-tar", "application/gzip")

MAX_MEMBERS_PER_ITEM = 4
"""Members that an archive may have for each photo that a dataset may have: the rest are folders and notes."""

MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
"""Of a zip's list of members, some 700,000 of them; they are all held in memory while it is read."""

_MAX_RATIO = 200
_SMALL_BYTES = 1024 * 1024
"""A member below this is no bomb, whatever its ratio."""

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".cbz")
_HEADER_BYTES = 512
_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
)
_NO_FILE = "a link or device, not a file"
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class UploadLimits:
    """What one dataset may hold."""

    max_items: int
    max_bytes: int
    max_image_bytes: int


@dataclass(frozen=True)
class _Member:
    """A file of an upload, in an archive or by itself.

    Args:
        packed_bytes: what it takes in the archive, where the archive says so.
        problem: why the archive makes it no file of its own.
        read: its first bytes, at most as many as asked for.
    """

    name: str
    num_bytes: int
    read: Callable[[int], bytes]
    packed_bytes: int | None = None
    problem: ServiceError | None = None


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
            InvalidDatasetError: the archive is broken or has too many members.
            RequestTooLargeError: unpacked, it is too large.
        """
        members = _members_of(file)
        file.seek(0)
        if members is None:
            self._add_member(_Member(name or "upload", 0, file.read))
        else:
            self._add_members(members(file))

    def _add_members(self, members: Iterator[_Member]) -> None:
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
                f"unpacked, the dataset has more than {self._limits.max_bytes} bytes; split it",
                max_bytes=self._limits.max_bytes,
            )

    def _add_member(self, member: _Member) -> None:
        problem = member.problem or _name_problem(member.name) or self._size_problem(member)
        if problem is None and member.name in self._names:
            problem = FileLeftOutError("a second file of this name")
        if problem is not None:
            self._writer.reject(member.name, problem)
            return
        data = member.read(self._limits.max_image_bytes + 1)
        if member.name == CAPTIONS_FILE and len(data) <= self._limits.max_image_bytes:
            self._names.add(member.name)
            self._writer.add_captions(data)
            return
        problem = _content_problem(member.name, data, self._limits.max_image_bytes)
        if problem is not None:
            self._writer.reject(member.name, problem)
            return
        self._names.add(member.name)
        self._writer.add_photo(member.name, data)

    def _size_problem(self, member: _Member) -> ServiceError | None:
        if member.num_bytes > self._limits.max_image_bytes:
            return ImageTooLargeError(
                f"has {member.num_bytes} bytes; a photo may have {self._limits.max_image_bytes}"
            )
        packed = member.packed_bytes
        if packed is not None and member.num_bytes > max(_SMALL_BYTES, _MAX_RATIO * max(packed, 1)):
            return FileLeftOutError(f"unpacks to more than {_MAX_RATIO} times its size")
        return None


def _name_problem(name: str) -> ServiceError | None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or "\0" in name:
        return FileLeftOutError("its name leads out of the archive")
    if len(name) > 1024:
        return FileLeftOutError("its name has more than 1024 characters")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return FileLeftOutError("a hidden file")
    if path.suffix.lower() in _ARCHIVE_SUFFIXES:
        return FileLeftOutError("an archive inside the upload; unpack it first")
    return None


def _content_problem(name: str, data: bytes, max_bytes: int) -> ServiceError | None:
    """A file that calls itself a photo is taken even when it is broken: its job will say what is wrong."""
    if len(data) > max_bytes:
        return ImageTooLargeError(f"has more than {max_bytes} bytes")
    looks_like_photo = recognised_format(data[:_HEADER_BYTES]) is not None
    if looks_like_photo or PurePosixPath(name).suffix.lower() in EXTENSIONS:
        return None
    return UnsupportedImageError("not a photo of a format that is read here")


def _members_of(file: IO[bytes]) -> Callable[[IO[bytes]], Iterator[_Member]] | None:
    file.seek(0)
    if recognised_format(file.read(_HEADER_BYTES)) is not None:  # a photo may carry a zip behind it
        return None
    file.seek(0)
    if zipfile.is_zipfile(file):
        return _zip_members
    file.seek(0)
    with _broken_archive("the file"):
        return _tar_members if tarfile.is_tarfile(file) else None


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    with _broken_archive("the zip file"):
        archive = zipfile.ZipFile(cast(IO[bytes], _ShortReads(file)))
    with archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield _zip_member(archive, info)


class _ShortReads:
    """A file of which zipfile, which reads the list of members at one go, cannot take too much at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= MAX_DIRECTORY_BYTES else MAX_DIRECTORY_BYTES + 1)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise InvalidDatasetError(
                f"the zip's list of members has more than {MAX_DIRECTORY_BYTES} bytes; "
                "send a tar, or several zips"
            )
        return data


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    def read(limit: int) -> bytes:
        with _broken_archive(info.filename), archive.open(info) as file:
            return file.read(limit)

    problem: ServiceError | None = UnreadableFileError("encrypted") if info.flag_bits & 1 else None
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        problem = FileLeftOutError(_NO_FILE)
    return _Member(info.filename, info.file_size, read, packed_bytes=info.compress_size, problem=problem)


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    with _broken_archive("the tar file"):
        archive = tarfile.open(fileobj=file, mode="r:*")  # noqa: SIM115 - closed below
    with archive:
        while True:
            with _broken_archive("the tar file"):
                info = archive.next()
            if info is None:
                return
            archive.members = []  # type: ignore[attr-defined] # else it keeps every header
            if not info.isdir():
                yield _tar_member(archive, info)


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def read(limit: int) -> bytes:
        with _broken_archive(info.name):
            file = archive.extractfile(info)
            return file.read(limit) if file else b""

    problem = None if info.isreg() and not info.sparse else FileLeftOutError(_NO_FILE)
    return _Member(info.name.removeprefix("./"), info.size, read, problem=problem)


@contextmanager
def _broken_archive(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise InvalidDatasetError(f"{name} is damaged or cut off: {error}") from error
