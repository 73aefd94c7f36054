"""Tar files in pieces, for photos that are sent or kept together."""

import tarfile
from collections.abc import Iterable, Iterator


def tar_of(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """A tar file of names and contents."""
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield data
        yield bytes(-len(data) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
