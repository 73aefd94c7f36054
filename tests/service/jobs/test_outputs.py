"""Outputs of an ended job, read back by what reads them in life."""

import csv
import io
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.jobs.archive import output_key
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import Item
from service.jobs.outputs import FILES, xmp_of
from service.jobs.parts import JobParts
from service.jobs.text_names import TextNames
from tests.service.jobs.conftest import dataset_of, job_on, photo, photo_folder
from tests.service.jobs.fakes import InlineWorker

TEXTS = [f"a picture of {8 + number} by 8" for number in range(3)]


def test_every_output_has_every_caption(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=3, broken=1)
    job = job_on(dataset_of(parts, folder), outputs=tuple(FILES))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()

    def output(name: str) -> bytes:
        return parts.store.get(output_key(job.id, 1, name)) or b""

    assert [
        json.loads(line)["captions"][0]["text"] for line in output("captions.jsonl").splitlines()
    ] == TEXTS
    assert [json.loads(line)["file_name"] for line in output("errors.jsonl").splitlines()] == ["0003.jpg"]
    rows = list(csv.DictReader(io.StringIO(output("captions.csv").decode())))
    assert [(row["file_name"], row["text"]) for row in rows] == [
        (f"{number:04d}.jpg", text) for number, text in enumerate(TEXTS)
    ]
    lines = [json.loads(line) for line in output("metadata.jsonl").splitlines()]
    assert lines == [{"file_name": f"{number:04d}.jpg", "text": text} for number, text in enumerate(TEXTS)]
    assert members(output("captions-txt.tar"))["0001.txt"] == f"{TEXTS[1]}\n".encode()
    assert "0001.xmp" in members(output("captions-xmp.tar"))
    samples = members(output("webdataset.tar"))
    assert samples["00000002.jpg"] == photo(2)
    assert samples["00000002.txt"] == f"{TEXTS[2]}\n".encode()
    assert len(samples) == 9


@pytest.mark.parametrize("kind", ["txt", "caption", "xmp"])
def test_photos_of_one_stem_have_texts_of_their_own_in_an_archive(parts: JobParts, kind: str) -> None:
    writer = DatasetWriter(parts.store, max_items=10)
    for number, name in enumerate(("sub/dup.jpg", "sub/dup.png", "dup.jpg")):
        writer.add_photo(name, photo(number))
    job = job_on(writer.finish(), outputs=(kind,))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    texts = members(parts.store.get(output_key(job.id, 1, f"captions-{kind}.tar")) or b"")
    assert set(texts) == {f"dup.{kind}", f"sub/dup.{kind}", f"sub/dup.png.{kind}"}
    assert b"a picture of 9 by 8" in texts[f"sub/dup.png.{kind}"]


@pytest.mark.parametrize(
    ("photos", "texts"),
    [
        (["a.jpg", "a.b.jpg", "b/a.jpg"], ["a", "a.b", "b/a"]),
        (["a.jpg", "a.png", "a.png.jpg"], ["a", "a.png", "a.png.jpg"]),
        (["a.jpg", "a.png.jpg", "a.png"], ["a", "a.png", "a.png.2"]),
        (["a.jpg", "A.png", "b", "b.jpg"], ["a", "A.png", "b", "b.jpg"]),
        (["a.jpg", "."], ["a", "00000001"]),
    ],
)
def test_no_two_photos_share_the_name_of_a_text(photos: list[str], texts: list[str]) -> None:
    names = TextNames((number, Item(name=name, num_bytes=1)) for number, name in enumerate(photos))
    assert [names.of(number, name) for number, name in enumerate(photos)] == texts


def test_xmp_is_xml_whatever_the_caption_says() -> None:
    row = {
        "captions": [{"text": 'a <dog> &\x00\x0b\x1f\ufffe\ud800 a "cat"'}],
        "model": {"name": "m<", "version": '1"'},
        "date": "2026-01-01T00:00:00+00:00",
    }
    tree = ElementTree.fromstring(xmp_of(row))
    assert 'a <dog> & a "cat"' in "".join(tree.itertext())


def test_file_name_that_is_a_formula_is_text_in_the_csv(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=1)
    (folder / "0000.jpg").rename(folder / "=1+1.jpg")
    job = job_on(dataset_of(parts, folder), outputs=("csv",))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert b"'=1+1.jpg" in (parts.store.get(output_key(job.id, 1, "captions.csv")) or b"")


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
