"""A file packed by xz or lzma, unpacked with a bound on memory, which lzma.LZMAFile has not."""

import io
import lzma
from typing import IO

from service.errors import InvalidDatasetError

MAX_MEMORY_BYTES = 128 * 1024 * 1024
"""For unpacking, twice what `xz -9` takes; a file may ask for 4 GiB."""

_PIECE_BYTES = 64 * 1024


def open_xz(file: IO[bytes]) -> io.BufferedReader:
    """What is packed in a file.

    Reading raises InvalidDatasetError when it takes too much memory, LZMAError or EOFError when damaged.
    """
    return io.BufferedReader(_Unpacking(file))


class _Unpacking(io.RawIOBase):
    """Going back begins anew, as with lzma.LZMAFile."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._begin()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("its end is not known")
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if target < self._position:
            self._begin()
        while self._position < target and self._read(min(_PIECE_BYTES, target - self._position)):
            pass
        return self._position

    def _begin(self) -> None:
        self._file.seek(0)
        self._position = 0
        self._stream = _stream()

    def _read(self, size: int) -> bytes:
        data = b""
        while not data:
            packed = b""
            if self._stream.eof:
                packed = self._next_stream()
                if not packed:
                    return b""
                self._stream = _stream()
            elif self._stream.needs_input:
                packed = self._file.read(_PIECE_BYTES)
                if not packed:
                    raise EOFError("it is cut off")
            data = _unpacked(self._stream, packed, size)
        self._position += len(data)
        return data

    def _next_stream(self) -> bytes:
        """How the one behind this begins; zeros may lie between two."""
        packed = self._stream.unused_data
        while not packed.strip(b"\0") and (packed := self._file.read(_PIECE_BYTES)):
            pass
        return packed.lstrip(b"\0")


def _stream() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=MAX_MEMORY_BYTES)


def _unpacked(stream: lzma.LZMADecompressor, packed: bytes, size: int) -> bytes:
    try:
        return stream.decompress(packed, size)
    except lzma.LZMAError as error:
        if "Memory usage limit" not in str(error):
            raise
        raise InvalidDatasetError(
            f"unpacking it takes more than {MAX_MEMORY_BYTES // 2**20} MiB of memory; "
            "pack it again with a smaller dictionary, as that of xz -9"
        ) from error
