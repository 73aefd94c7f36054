"""Archives that are damaged, cut off or made to exhaust: what is whole is taken, the rest is named."""

import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from service.errors import InvalidDatasetError
from service.jobs.store import ArtifactStore
from service.jobs.tar_stream import tar_of
from tests.service.jobs.conftest import photo
from tests.service.jobs.test_uploads import ingested, names, reasons, zipped

MANY = 64 * 1024 * 1024


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore.open("memory:///")


def tar_of_photos(count: int) -> bytes:
    return b"".join(tar_of((f"{number}.jpg", photo(number)) for number in range(count)))


def stored(*numbers: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in numbers:
            archive.writestr(f"{number}.jpg", photo(number))
    return file.getvalue()


def record(kind: bytes, content: bytes) -> bytes:
    """A header of a tar that says something of the next one."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def test_member_of_a_zip_with_a_wrong_checksum_is_named(store: ArtifactStore) -> None:
    whole = stored(0, 1, 2)
    dataset = ingested(store, ("c.zip", whole.replace(photo(1)[20:], photo(1)[20:][::-1], 1)))
    assert names(store, dataset) == ["0.jpg", "2.jpg"]
    assert "CRC" in reasons(dataset)["1.jpg"]


def test_member_of_a_zip_packed_in_an_unknown_way_is_named(store: ArtifactStore) -> None:
    damaged = bytearray(stored(0, 1))
    directory = damaged.rindex(b"PK\x01\x02")
    damaged[directory + 10] = 93  # zstd
    dataset = ingested(store, ("c.zip", bytes(damaged)))
    assert names(store, dataset) == ["0.jpg"]
    assert "not supported" in reasons(dataset)["1.jpg"]


@pytest.mark.parametrize("end", [-3, 60])
def test_zip_whose_list_of_members_cannot_be_read_says_so(store: ArtifactStore, end: int) -> None:
    with pytest.raises(InvalidDatasetError, match="the zip file is damaged or cut off"):
        ingested(store, ("upload", zipped(("a.jpg", photo()), ("b.jpg", photo(1)))[:end]))


@pytest.mark.parametrize("packed", [False, True])
def test_what_came_whole_of_a_tar_that_is_cut_off_is_taken(store: ArtifactStore, packed: bool) -> None:
    whole = tar_of_photos(4)
    cut = whole[: whole.index(photo(2)) + 100]
    data = gzip.compress(whole)[: len(gzip.compress(cut)) - 20] if packed else cut
    dataset = ingested(store, ("photos.tgz", data))
    assert names(store, dataset)[:2] == ["0.jpg", "1.jpg"]
    assert "cut off" in reasons(dataset)["photos.tgz"]


@pytest.mark.parametrize("damage", ["header", "between"])
def test_header_of_a_tar_that_is_damaged_or_missing_is_not_taken_for_its_end(
    store: ArtifactStore, damage: str
) -> None:
    whole = tar_of_photos(3)
    last = whole.index(b"2.jpg")
    data = whole[:last] + b"x" + whole[last + 1 :] if damage == "header" else whole[:last]
    dataset = ingested(store, ("photos.tar", data))
    assert names(store, dataset) == ["0.jpg", "1.jpg"]
    assert "what came behind '1.jpg' is missing" in reasons(dataset)["photos.tar"]


def test_packed_file_that_cannot_be_read_is_named_and_the_others_taken(store: ArtifactStore) -> None:
    dataset = ingested(store, ("a.tgz", gzip.compress(tar_of_photos(1))[:40]), ("b.jpg", photo()))
    assert names(store, dataset) == ["b.jpg"]
    assert "no tar that can be read" in reasons(dataset)["a.tgz"]


def test_tar_whose_last_file_is_a_zip_is_a_tar(store: ArtifactStore) -> None:
    data = b"".join(tar_of(iter([("a.jpg", photo()), ("z.bin", stored(1))])))
    assert names(store, ingested(store, ("x.tar", data))) == ["a.jpg"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", tarfile.GNUTYPE_LONGNAME])
def test_header_that_asks_for_much_memory_is_not_read(store: ArtifactStore, kind: bytes) -> None:
    begin = f"{MANY} comment=".encode()
    content = begin + b"a" * (MANY - len(begin) - 1) + b"\n"
    first = b"".join(tar_of(iter([("0.jpg", photo())])))[:-1024]
    bomb = gzip.compress(first + record(kind, content) + tar_of_photos(1), compresslevel=1)
    del content
    tracemalloc.start()
    try:
        dataset = ingested(store, ("x.tgz", bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert names(store, dataset) == ["0.jpg"]
    assert "headers have more than" in reasons(dataset)["x.tgz"]
    assert peak < MANY / 8


def test_header_of_the_first_member_that_asks_for_much_memory_is_refused(store: ArtifactStore) -> None:
    bomb = record(tarfile.XHDTYPE, bytes(2_000_000)) + tar_of_photos(1)
    with pytest.raises(InvalidDatasetError, match="headers have more than"):
        ingested(store, ("x.tar", bomb))


def test_map_of_holes_without_end_is_not_read(store: ArtifactStore) -> None:
    info = tarfile.TarInfo("holes.jpg")
    info.size = 2_000_000
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes.jpg"}
    member = info.tobuf(tarfile.PAX_FORMAT) + b"900000\n" + b"1\n" * 1_000_000
    dataset = ingested(store, ("x.tar", b"".join(tar_of(iter([("0.jpg", photo())])))[:-1024] + member))
    assert names(store, dataset) == ["0.jpg"]


def test_headers_in_a_row_end_the_archive_not_the_service(store: ArtifactStore) -> None:
    row = record(tarfile.XHDTYPE, b"12 comment=\n") * 2000
    dataset = ingested(store, ("x.tar", tar_of_photos(1)[:-1024] + row + tar_of_photos(1)))
    assert names(store, dataset) == ["0.jpg"]
    assert dataset.num_rejected == 1


def asking_for_memory(tar: bytes, *, suffix: str, exponent: int) -> bytes:
    """A packed tar whose header asks for 2^exponent bytes to unpack it."""
    if suffix == "lzma":
        packed = bytearray(lzma.compress(tar, lzma.FORMAT_ALONE))
        packed[1:5] = (1 << exponent).to_bytes(4, "little")
        return bytes(packed)
    packed = bytearray(lzma.compress(tar))
    end = 12 + 4 * (packed[12] + 1)  # of the block's header (xz file format, 3.1)
    assert packed[14:16] == b"\x21\x01"
    packed[16] = 2 * (exponent - 12)  # 5.3.1
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize("suffix", ["xz", "lzma"])
def test_archive_that_asks_for_much_memory_is_refused(store: ArtifactStore, suffix: str) -> None:
    packed = asking_for_memory(tar_of_photos(3), suffix=suffix, exponent=30)
    assert lzma.decompress(packed) == tar_of_photos(3)
    tracemalloc.start()
    with pytest.raises(InvalidDatasetError, match="more than 128 MiB of memory"):
        ingested(store, (f"photos.tar.{suffix}", packed))
    assert tracemalloc.get_traced_memory()[1] < MANY
    tracemalloc.stop()


def test_tar_of_several_xz_streams_is_read(store: ArtifactStore) -> None:
    tar = tar_of_photos(20)
    as_xz_9 = asking_for_memory(tar[3000:], suffix="xz", exponent=26)
    packed = lzma.compress(tar[:3000]) + bytes(8) + as_xz_9 + bytes(4)
    assert len(names(store, ingested(store, ("photos.tar.xz", packed)))) == 20
    cut_off = lzma.compress(tar)[:-60]
    dataset = ingested(store, ("photos.tar.xz", cut_off))
    assert "missing" in reasons(dataset)["photos.tar.xz"]
