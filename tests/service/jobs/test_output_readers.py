"""Outputs of a job, read as those read them whom they are for."""

import io
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.jobs.archive import output_key
from service.jobs.documents import CaptionJob
from service.jobs.outputs import FILES
from service.jobs.parts import JobParts
from tests.service.jobs.conftest import dataset_of, job_on, photo_folder
from tests.service.jobs.fakes import InlineWorker
from training.data import Problems
from training.folders import read_captioned_images
from training.webdataset import read_captioned_shards

TEXTS = [f"a picture of {8 + number} by 8" for number in range(3)]
SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "x": "adobe:ns:meta/",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", good=3, broken=1)


@pytest.fixture
def job(parts: JobParts, folder: Path) -> CaptionJob:
    job = job_on(dataset_of(parts, folder), outputs=tuple(FILES))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    return job


def output(parts: JobParts, job: CaptionJob, name: str) -> bytes:
    return parts.store.get(output_key(job.id, 1, name)) or b""


def test_metadata_beside_the_photos_is_a_labelled_folder(
    parts: JobParts, job: CaptionJob, folder: Path
) -> None:
    (folder / "metadata.jsonl").write_bytes(output(parts, job, "metadata.jsonl"))
    problems = Problems()
    images = read_captioned_images(folder, problems)
    assert [list(captions) for captions in images.captions] == [[text] for text in TEXTS]
    assert problems.items == []


def test_webdataset_is_a_shard_to_train_on(parts: JobParts, job: CaptionJob, tmp_path: Path) -> None:
    shard = tmp_path / "shard.tar"
    shard.write_bytes(output(parts, job, "webdataset.tar"))
    problems = Problems()
    images = read_captioned_shards([shard], problems)
    assert [list(captions) for captions in images.captions] == [[text] for text in TEXTS]
    assert problems.items == []


@pytest.mark.parametrize("kind", ["txt", "caption"])
def test_texts_unpacked_over_the_photos_lie_beside_them(
    parts: JobParts, job: CaptionJob, folder: Path, kind: str
) -> None:
    with tarfile.open(fileobj=io.BytesIO(output(parts, job, f"captions-{kind}.tar"))) as archive:
        archive.extractall(folder, filter="data")
    found = [path.with_suffix(f".{kind}") for path in sorted(folder.glob("*.jpg"))]
    assert [path.read_text().strip() for path in found if path.exists()] == TEXTS


def test_xmp_sidecar_has_the_description_where_photo_managers_look(
    parts: JobParts, job: CaptionJob, folder: Path
) -> None:
    with tarfile.open(fileobj=io.BytesIO(output(parts, job, "captions-xmp.tar"))) as archive:
        archive.extractall(folder, filter="data")
    tree = ElementTree.parse(folder / "0001.xmp")
    (description,) = tree.findall("rdf:RDF/rdf:Description", SPACES)
    (text,) = description.findall("dc:description/rdf:Alt/rdf:li", SPACES)
    assert (text.text, text.get("{http://www.w3.org/XML/1998/namespace}lang")) == (TEXTS[1], "x-default")
    assert description.get(f"{{{SPACES['xmp']}}}CreatorTool") == "semicap fake:1"
    raw = (folder / "0001.xmp").read_bytes()
    assert raw.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    assert raw.rstrip().endswith(b'<?xpacket end="w"?>')


def test_photo_that_is_gone_at_the_end_is_left_out_and_the_job_says_so(parts: JobParts, folder: Path) -> None:
    job = job_on(dataset_of(parts, folder), outputs=("webdataset", "csv"))
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_one()
    (folder / "0001.jpg").unlink()
    worker.do_all()
    status = parts.jobs.status(job.id)
    assert status.state == "failed"
    assert "webdataset.tar lacks 1 photos; the first: 0001.jpg" in (status.error or "")
    with tarfile.open(fileobj=io.BytesIO(output(parts, job, "webdataset.tar"))) as archive:
        assert len(archive.getnames()) == 6
    assert len(output(parts, job, "captions.csv").splitlines()) == 4
