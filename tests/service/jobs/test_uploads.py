"""Uploads: photos in, everything that is not one named with its reason."""

import io
import stat
import tarfile
import zipfile

import pytest

from service.errors import InvalidDatasetError, RequestTooLargeError
from service.jobs.dataset_captions import read_captions
from service.jobs.datasets import Datasets, DatasetWriter
from service.jobs.documents import Dataset
from service.jobs.store import ArtifactStore
from service.jobs.tar_stream import tar_of
from service.jobs.uploads import Ingest, UploadLimits
from tests.service.jobs.conftest import photo

LIMITS = UploadLimits(max_items=20, max_bytes=5_000_000, max_image_bytes=1_000_000)


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore.open("memory:///")


def ingested(store: ArtifactStore, *files: tuple[str, bytes], limits: UploadLimits = LIMITS) -> Dataset:
    writer = DatasetWriter(store, max_items=limits.max_items)
    ingest = Ingest(writer, limits)
    for name, data in files:
        ingest.add_file(name, io.BytesIO(data))
    return writer.finish()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def reasons(dataset: Dataset) -> dict[str, str]:
    return {one.name: one.problem.detail for one in dataset.rejected}


def names(store: ArtifactStore, dataset: Dataset) -> list[str]:
    return [item.name for _, item in Datasets(store).items(dataset.id, range(dataset.num_items))]


def test_photos_and_archives_of_one_upload_make_one_dataset(store: ArtifactStore) -> None:
    tar = b"".join(tar_of(iter([("b/1.jpg", photo(1)), ("b/2.jpg", photo(2))])))
    dataset = ingested(store, ("0.jpg", photo(0)), ("b.tar", tar), ("c.zip", zipped(("c/3.jpg", photo(3)))))
    assert names(store, dataset) == ["0.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg"]
    (_, item), *_ = Datasets(store).items(dataset.id, [2])
    assert Datasets(store).read(dataset, item, max_bytes=1000) == photo(2)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar_is_read_packed_or_not(store: ArtifactStore, mode: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for number in range(5):
            info = tarfile.TarInfo(f"./{number}.jpg")
            info.size = len(photo(number))
            archive.addfile(info, io.BytesIO(photo(number)))
    dataset = ingested(store, ("photos", file.getvalue()))
    assert names(store, dataset) == [f"{number}.jpg" for number in range(5)]


def test_same_photo_twice_is_kept_once(store: ArtifactStore) -> None:
    dataset = ingested(store, ("c.zip", zipped(("a.jpg", photo()), ("b.jpg", photo()))))
    assert dataset.num_items == 2
    assert len(store.keys("images")) == 1


def test_dangerous_and_foreign_members_of_a_zip_are_named(store: ArtifactStore) -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    dataset = ingested(
        store,
        (
            "c.zip",
            zipped(
                ("good.jpg", photo()),
                ("../up.jpg", photo(1)),
                ("/etc/abs.jpg", photo(2)),
                ("C:\\windows.jpg", photo(3)),
                (link, b"/etc/passwd"),
                ("inner.zip", zipped(("x.jpg", photo(4)))),
                ("bomb.png", b"\x89PNG\r\n\x1a\n" + bytes(900_000 + 1_000_000 * 3)),
                ("notes.txt", b"hello"),
                ("__MACOSX/good.jpg", photo(5)),
                ("broken.jpg", photo()[:50]),
            ),
        ),
    )
    assert names(store, dataset) == ["good.jpg", "broken.jpg"]
    found = reasons(dataset)
    assert found["../up.jpg"] == found["/etc/abs.jpg"] == found["C:\\windows.jpg"]
    assert "leads out" in found["../up.jpg"]
    assert "link" in found["link.jpg"]
    assert "archive inside" in found["inner.zip"]
    assert found["bomb.png"] == "has 3.9 MB, more than the 1 MB of a photo"
    assert "not a photo" in found["notes.txt"]
    assert dataset.num_rejected == 8


def test_member_that_unpacks_to_far_more_than_its_size_is_left_out(store: ArtifactStore) -> None:
    limits = UploadLimits(max_items=5, max_bytes=50_000_000, max_image_bytes=20_000_000)
    data = zipped(("bomb.png", bytes(10_000_000)), ("a.jpg", photo()))
    assert "200 times" in reasons(ingested(store, ("c.zip", data), limits=limits))["bomb.png"]


def test_second_file_of_a_name_is_named(store: ArtifactStore) -> None:
    tar = b"".join(tar_of(iter([("a.jpg", photo(1)), ("a.jpg", photo(2))])))
    dataset = ingested(store, ("x.tar", tar))
    assert names(store, dataset) == ["a.jpg"]
    assert "second file" in reasons(dataset)["a.jpg"]


def test_links_and_devices_of_a_tar_are_named(store: ArtifactStore) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (
            ("s.jpg", tarfile.SYMTYPE),
            ("h.jpg", tarfile.LNKTYPE),
            ("f.jpg", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("good.jpg")
        info.size = len(photo())
        archive.addfile(info, io.BytesIO(photo()))
    dataset = ingested(store, ("x.tar", file.getvalue()))
    assert names(store, dataset) == ["good.jpg"]
    assert set(reasons(dataset)) == {"s.jpg", "h.jpg", "f.jpg"}


def test_upload_beyond_a_limit_is_refused_whole(store: ArtifactStore) -> None:
    many = zipped(*((f"{number}.jpg", photo(number)) for number in range(21)))
    with pytest.raises(InvalidDatasetError, match="more than 20 photos"):
        ingested(store, ("c.zip", many))
    skipped = b"".join(tar_of(iter([(f"{n}.bin", bytes(2_000_000)) for n in range(4)])))
    with pytest.raises(RequestTooLargeError, match="more than 5 MB"):
        ingested(store, ("x.tar", skipped))
    assert store.keys("datasets") == []


def test_zip_with_too_long_a_list_of_members_is_refused_before_it_is_read(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.archive_members.MAX_DIRECTORY_BYTES", 2000)
    names = [f"{number:060d}.jpg" for number in range(30)]
    with pytest.raises(InvalidDatasetError, match="list of members has more than 2 kB"):
        ingested(store, ("c.zip", zipped(*((name, photo()) for name in names))))
    assert ingested(store, ("c.zip", zipped(*((name, photo()) for name in names[:15])))).num_items == 15


@pytest.mark.parametrize("cut", [60, 600])
def test_damage_inside_a_zip_costs_what_it_hits(store: ArtifactStore, cut: int) -> None:
    whole = zipped(*((f"{number}.jpg", photo(number)) for number in range(5)))
    middle = len(whole) // 2
    dataset = ingested(store, ("c.zip", whole[:middle] + bytes(cut) + whole[middle + cut :]))
    assert "0.jpg" in names(store, dataset)
    assert dataset.num_rejected == 5 - dataset.num_items > 0
    with pytest.raises(InvalidDatasetError, match="damaged or cut off"):
        ingested(store, ("c.zip", whole[:-cut]))


def test_captions_may_be_longer_than_a_photo(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.uploads.MAX_CAPTIONS_BYTES", 3_000_000)
    lines = b"".join(b'{"file_name": "%d.jpg", "text": "%s"}\n' % (n, b"word " * 8) for n in range(30_000))
    assert LIMITS.max_image_bytes < len(lines) < 3_000_000
    dataset = ingested(store, ("c.zip", zipped(("a.jpg", photo()), ("metadata.jsonl", lines))))
    assert dataset.num_rejected == 0
    assert read_captions(dataset, store) == lines
    tar = b"".join(tar_of(iter([("a.jpg", photo()), ("metadata.jsonl", 2 * lines)])))
    for upload in (("x.tar", tar),), (("a.jpg", photo()), ("metadata.jsonl", 2 * lines)):
        found = reasons(ingested(store, *upload))
        assert found == {"metadata.jsonl": "has more than 3 MB, which metadata.jsonl may have"}


def test_captions_that_are_damaged_are_named_and_not_kept_in_part(store: ArtifactStore) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", photo())
        archive.writestr("metadata.jsonl", b"a line\n" * 300_000)
    dataset = ingested(store, ("c.zip", file.getvalue().replace(b"a line", b"A line", 1)))
    assert set(reasons(dataset)) == {"metadata.jsonl"}
    assert read_captions(dataset, store) == b""


@pytest.mark.parametrize(("encoding", "has_flag"), [("utf-8", False), ("utf-8", True), ("cp437", False)])
def test_names_of_a_zip_are_read_as_they_were_written(
    store: ArtifactStore, encoding: str, has_flag: bool
) -> None:
    data = bytearray(
        zipped(("ab0123.jpg", photo())).replace(b"ab0123", "éü12".encode(encoding).ljust(6, b"_"))
    )
    if has_flag:
        for begin, flags in ((data.index(b"PK\x03\x04"), 6), (data.index(b"PK\x01\x02"), 8)):
            data[begin + flags + 1] |= 0x08
    (name,) = names(store, ingested(store, ("c.zip", bytes(data))))
    assert name in ("éü12.jpg", "éü12__.jpg")


def test_names_that_are_none_or_not_utf8_are_named_and_the_others_taken(store: ArtifactStore) -> None:
    nameless = zipped((zipfile.ZipInfo(""), photo(3)), ("a.jpg", photo(4)))
    members = [("caf\udce9.jpg", photo(1)), ("good.jpg", photo(2))]
    latin = b"".join(tar_of(iter(members)))
    dataset = ingested(
        store, ("n.zip", nameless), ("l.tar", latin), (".", photo(5)), ("\udcff.jpg", photo(6))
    )
    assert names(store, dataset) == ["a.jpg", "good.jpg"]
    assert reasons(dataset) == {
        "''": "'' names no file",
        "'caf\\udce9.jpg'": "its name 'caf\\udce9.jpg' is not UTF-8; rename it",
        ".": "'.' names no file",
        "'\\udcff.jpg'": "its name '\\udcff.jpg' is not UTF-8; rename it",
    }


def test_link_of_a_tar_whose_name_is_not_utf8_is_named(store: ArtifactStore) -> None:
    link = tarfile.TarInfo("\udce9.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "good.jpg"
    tar = link.tobuf(tarfile.PAX_FORMAT) + b"".join(tar_of(iter([("good.jpg", photo())])))
    assert set(reasons(ingested(store, ("x.tar", tar)))) == {"'\\udce9.jpg'"}


def test_upload_without_a_photo_says_what_was_in_it(store: ArtifactStore) -> None:
    with pytest.raises(InvalidDatasetError, match=r"no photo in it; the first of 1 left out: a\.txt"):
        ingested(store, ("c.zip", zipped(("a.txt", b"x"))))
