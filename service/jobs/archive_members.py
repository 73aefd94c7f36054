"""Members of a zip or tar, one after the other, never unpacked to disk; a damaged one harms no other."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TypeAlias, cast

from service.errors import FileLeftOutError, InvalidDatasetError, ServiceError, UnreadableFileError
from service.image_formats import recognised_format
from service.jobs.xz_file import open_xz
from service.sizes import size_text

MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
"""Of a zip's list of members, some 700,000 of them; they are all held in memory while it is read."""

MAX_HEADER_BYTES = 1024 * 1024
"""Of all headers of one member of a tar (long names, pax records, maps of holes): tarfile holds them all."""

_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    RuntimeError,  # also RecursionError, and NotImplementedError for a way of packing that is not known
)
_PIECE_BYTES = 1024 * 1024
_NO_FILE = "a link or device, not a file"
_UTF8_FLAG = 0x800
_ZIP_BEGIN = b"PK\x03\x04"
_Opener: TypeAlias = Callable[[IO[bytes]], IO[bytes]]
_OPENERS: Mapping[bytes, _Opener] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7zXZ\x00": open_xz,
    b"\x5d\x00\x00": open_xz,
}
"""By how the packed file begins."""


@dataclass(frozen=True)
class Member:
    """A file of an upload, in an archive or by itself.

    Args:
        packed_bytes: what it takes in the archive, where the archive says so.
        problem: why the archive makes it no file of its own.
    """

    name: str
    num_bytes: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    packed_bytes: int | None = None
    problem: ServiceError | None = None

    def read(self, limit: int) -> bytes:
        """Its first bytes, `limit` at most; raises UnreadableFileError."""
        with _damaged_member(), self.open() as file:
            return file.read(limit)

    def pieces(self) -> Iterator[bytes]:
        """All of it; raises UnreadableFileError, also after pieces that were whole."""
        with _damaged_member(), self.open() as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def file_itself(name: str, file: IO[bytes]) -> Member:
    """A file that is no archive."""
    file.seek(0)
    return Member(name, 0, lambda: nullcontext(file))


def members_of(name: str, file: IO[bytes]) -> Iterator[Member] | None:
    """The members of a zip, or of a tar that may be packed; None for any other file.

    Raises:
        UnreadableFileError: it is packed, and nothing that can be read here.
        InvalidDatasetError: while iterated: a zip's list of members, or a tar's first one, cannot be read.
    """
    file.seek(0)
    begin = file.read(tarfile.BLOCKSIZE)
    if recognised_format(begin) is not None:  # a photo may carry a zip behind it
        return None
    opener = next((opener for magic, opener in _OPENERS.items() if begin.startswith(magic)), None)
    if (tar := _tar_in(file, opener)) is not None:
        return _tar_members(name, tar)
    if opener is not None:
        raise UnreadableFileError(
            "no tar that can be read: damaged, cut off, or something else that is packed"
        )
    file.seek(0)
    if zipfile.is_zipfile(file) or begin.startswith(_ZIP_BEGIN):
        return _zip_members(file)
    return None


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with _damaged_archive("the zip file"):
        archive = zipfile.ZipFile(cast(IO[bytes], _ShortReads(file)))
    with archive:
        for info in archive.infolist():
            if not info.filename.endswith("/"):
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
                f"the zip's list of members has more than {size_text(MAX_DIRECTORY_BYTES)}; "
                "send a tar, or several zips"
            )
        return data


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    problem: ServiceError | None = UnreadableFileError("encrypted") if info.flag_bits & 1 else None
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        problem = FileLeftOutError(_NO_FILE)
    return Member(
        _zip_name(info),
        info.file_size,
        lambda: archive.open(info),
        packed_bytes=info.compress_size,
        problem=problem,
    )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Without the flag for UTF-8 a name is in cp437, says the format; many tools write UTF-8 all the same."""
    if info.flag_bits & _UTF8_FLAG:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _tar_in(file: IO[bytes], opener: _Opener | None) -> "_Allowance | None":
    """The bytes of a tar; None where the file is none."""
    file.seek(0)
    bare = file if opener is None else opener(file)
    try:
        tarfile.TarInfo.frombuf(bare.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
        bare.seek(0)
    except _DAMAGES:
        return None
    return _Allowance(bare)


class _Allowance:
    """A tar's bytes, of which tarfile may read as many as it is allowed to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._left = 0
        self.last = b""

    def allow(self, num_bytes: int) -> None:
        self._left = num_bytes

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise tarfile.ReadError(f"a member's headers have more than {MAX_HEADER_BYTES} bytes")
        self._left -= size
        self.last = self._file.read(size)
        return self.last


def _tar_members(name: str, source: _Allowance) -> Iterator[Member]:
    source.allow(MAX_HEADER_BYTES)
    with _damaged_archive("the tar file"):
        archive = tarfile.open(fileobj=cast(IO[bytes], source), mode="r:")  # noqa: SIM115 - closed below
    before = ""
    with archive:
        while True:
            try:
                with _damaged_archive("the tar file"):
                    info = _next(archive, source)
            except InvalidDatasetError as error:
                lost = f"{error.detail}; what came behind {before!a} is missing"
                yield Member(name, 0, lambda: nullcontext(BytesIO()), problem=UnreadableFileError(lost))
                return
            if info is None:
                return
            before = info.name
            if not info.isdir():
                yield _tar_member(archive, info, source)


def _next(archive: tarfile.TarFile, source: _Allowance) -> tarfile.TarInfo | None:
    """As TarFile.next, which takes a damaged header for the archive's end and keeps whatever it has read."""
    source.allow(MAX_HEADER_BYTES)
    info = archive.next()
    if info is None and source.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end mark is missing")
    if info is not None and info.size < 0:
        raise tarfile.ReadError("a member's size is negative")
    archive.members = []  # type: ignore[attr-defined]
    archive.pax_headers = {}
    return info


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, source: _Allowance) -> Member:
    def content() -> IO[bytes]:
        source.allow(info.size)
        return cast(IO[bytes], archive.extractfile(info))

    problem = None if info.isreg() and not info.sparse else FileLeftOutError(_NO_FILE)
    return Member(info.name.removeprefix("./"), info.size, content, problem=problem)


@contextmanager
def _damaged_archive(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise InvalidDatasetError(f"{name} is damaged or cut off: {error}") from error


@contextmanager
def _damaged_member() -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise UnreadableFileError(f"it cannot be read from the archive: {error}") from error
