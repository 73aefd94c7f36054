"""Folders of the server: only what the operator allows, and a person's text stays."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from service.errors import FolderNotAllowedError, InvalidDatasetError, InvalidRequestError
from service.jobs.failures import worth_retrying
from service.jobs.folders import dataset_of_folder
from service.jobs.outputs import errors
from service.jobs.parts import JobParts
from service.jobs.sidecars import SidecarWriter
from service.jobs.store import ArtifactStore
from service.jobs.text_names import text_names_of
from tests.service.jobs.conftest import dataset_of, job_on, photo, photo_folder
from tests.service.jobs.fakes import InlineWorker


def test_folder_outside_the_roots_is_refused_also_through_a_link(tmp_path: Path) -> None:
    store = ArtifactStore.open("memory:///")
    photo_folder(tmp_path / "secret", good=1)
    root = photo_folder(tmp_path / "root", good=1)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "file.jpg").symlink_to(tmp_path / "secret" / "0000.jpg")
    for folder in (tmp_path / "secret", root / ".." / "secret", root / "link", tmp_path):
        with pytest.raises(FolderNotAllowedError, match="SEMICAP_DATASET_ROOTS"):
            dataset_of_folder(str(folder), store=store, roots=[root], max_items=9)
    with pytest.raises(InvalidDatasetError, match="is not a folder"):
        dataset_of_folder(str(root / "none"), store=store, roots=[root], max_items=9)
    with pytest.raises(InvalidDatasetError, match="is not a folder"):
        dataset_of_folder(str(root / (300 * "n")), store=store, roots=[root], max_items=9)
    dataset = dataset_of_folder(str(root), store=store, roots=[root], max_items=9)
    assert dataset.num_items == 1
    assert [one.name for one in dataset.rejected] == ["file.jpg"]


def test_folder_is_not_looked_for_below_where_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, root = ArtifactStore.open("memory:///"), photo_folder(tmp_path / "root", good=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match=r"whole path.*SEMICAP_DATASET_ROOTS"):
        dataset_of_folder("root", store=store, roots=[root], max_items=9)


@pytest.mark.parametrize(
    ("policy", "person", "machine"),
    [
        ("skip", "mine\n", "old\n"),
        ("append", "mine\n{new}\n", "old\n{new}\n"),
        ("prepend", "{new}\nmine\n", "{new}\nold\n"),
        ("overwrite-machine", "mine\n", "{new}\n"),
        ("overwrite", "{new}\n", "{new}\n"),
    ],
)
def test_policy_says_what_becomes_of_a_text(
    parts: JobParts, tmp_path: Path, policy: str, person: str, machine: str
) -> None:
    folder = photo_folder(tmp_path / "photos", good=3)
    dataset = dataset_of(parts, folder)
    (folder / "0000.txt").write_text("mine\n")
    (folder / "0001.txt").write_text("old\n")
    (folder / ".semicap.jsonl").write_text(
        '{"file_name": "0001.jpg", "sha256": "' + _sha256("old\n") + '", "job": "job-earlier"}\n{"torn'
    )
    job = job_on(dataset, writes_to_folder=True, policy=policy)
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_all()

    def text(number: int) -> str:
        return (folder / f"{number:04d}.txt").read_text()

    assert text(0) == person.format(new="a picture of 8 by 8")
    assert text(1) == machine.format(new="a picture of 9 by 8")
    assert text(2) == "a picture of 10 by 8\n"
    counts = parts.jobs.status(job.id).counts
    assert (counts.done, counts.skipped) == ((1, 2) if policy == "skip" else (3, 0))

    before = [text(number) for number in range(3)]
    writer = SidecarWriter(
        job, dataset, text_names_of(parts.datasets)(dataset.id)
    )  # a second end of the same job, as after a kill
    for result in parts.jobs.results(job.id):
        if result.outcome == "captioned":
            writer.write(result)
    assert [text(number) for number in range(3)] == before


NOT_UTF8 = {"0000": b"Caf\xe9\n", "0001": "a dog\n".encode("utf-16"), "0002": "a dog".encode("utf-16-le")}
TOO_LONG = {"0003": b"a dog\n" * 250_000}


@pytest.mark.parametrize("policy", ["append", "prepend"])
def test_text_that_no_caption_can_be_put_to_stays_byte_for_byte_and_is_an_error_line(
    parts: JobParts, tmp_path: Path, policy: str
) -> None:
    folder = photo_folder(tmp_path / "photos", good=5)
    texts = NOT_UTF8 | TOO_LONG
    for name, text in texts.items():
        (folder / f"{name}.txt").write_bytes(text)
    job = job_on(dataset_of(parts, folder), writes_to_folder=True, policy=policy)
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_all()
    assert {name: (folder / f"{name}.txt").read_bytes() for name in texts} == texts
    lines = list(errors(parts.jobs.results(job.id)))
    assert [line["problem"]["detail"] for line in lines] == [
        *(f"{name}.txt is not UTF-8 text; it is left as it is" for name in NOT_UTF8),
        "0003.txt has more than 1 MB; it is left as it is",
    ]
    status = parts.jobs.status(job.id)
    assert (status.state, status.counts.done, status.counts.failed) == ("succeeded", 1, 4)
    assert worker.captions.done == [4]

    (folder / "0000.txt").write_text("Café\n", encoding="utf-8")
    parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
    worker.do_all()
    assert parts.jobs.status(job.id).counts.done == 2
    assert "Café" in (folder / "0000.txt").read_text(encoding="utf-8")


def test_text_that_came_while_the_job_ran_stays_and_the_job_says_so(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=2)
    job = job_on(dataset_of(parts, folder), writes_to_folder=True, policy="append")
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_one()
    (folder / "0001.txt").write_bytes(b"Caf\xe9")
    worker.do_all()
    status = parts.jobs.status(job.id)
    assert (status.state, (folder / "0001.txt").read_bytes()) == ("failed", b"Caf\xe9")
    assert "0001.txt is not UTF-8 text; it is left as it is" in (status.error or "")


@pytest.mark.parametrize(
    ("policy", "text", "expected"),
    [
        ("append", b"\xef\xbb\xbfmine\r\n", b"\xef\xbb\xbfmine\r\nNEW\n"),
        ("prepend", b"\xef\xbb\xbfmine\r\n", b"\xef\xbb\xbfNEW\nmine\r\n"),
        ("append", b"mine \n\n", b"mine \n\nNEW\n"),
        ("append", b"mine", b"mine\nNEW\n"),
        ("prepend", b"mine", b"NEW\nmine"),
        ("append", b"x" * 1024 * 1024, b"x" * 1024 * 1024 + b"\nNEW\n"),
    ],
)
def test_a_persons_text_is_kept_to_the_byte(
    parts: JobParts, tmp_path: Path, policy: str, text: bytes, expected: bytes
) -> None:
    folder = photo_folder(tmp_path / "photos", good=1)
    dataset = dataset_of(parts, folder)
    (folder / "0000.txt").write_bytes(text)
    job = job_on(dataset, writes_to_folder=True, policy=policy)
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    expected = expected.replace(b"NEW", b"a picture of 8 by 8")
    assert (folder / "0000.txt").read_bytes() == expected
    for result in parts.jobs.results(job.id):
        assert SidecarWriter(job, dataset, text_names_of(parts.datasets)(dataset.id)).write(result), (
            "a second end of the same job, as after a kill"
        )
    assert (folder / "0000.txt").read_bytes() == expected


def test_text_of_a_photo_with_a_line_separator_in_its_name_is_known_as_a_machines(
    parts: JobParts, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=1)
    (folder / "0000.jpg").rename(folder / "one\u2028two\x85.jpg")
    text = folder / "one\u2028two\x85.txt"
    text.write_text("a machine's\n")
    note = {"file_name": "one\u2028two\x85.jpg", "sha256": _sha256("a machine's\n"), "job": "earlier"}
    (folder / ".semicap.jsonl").write_text(json.dumps(note, ensure_ascii=False) + "\n")
    job = job_on(dataset_of(parts, folder), writes_to_folder=True, policy="overwrite-machine")
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert text.read_text() == "a picture of 8 by 8\n"


def test_photo_of_the_longest_name_gets_its_text(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=1)
    (folder / "0000.jpg").rename(folder / f"{251 * 'x'}.jpg")
    job = job_on(dataset_of(parts, folder), writes_to_folder=True)
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).state == "succeeded"
    assert (folder / f"{251 * 'x'}.txt").read_text() == "a picture of 8 by 8\n"


def test_text_that_cannot_take_its_place_leaves_no_other_file_behind(
    parts: JobParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    folder = photo_folder(tmp_path / "photos", good=1)
    job = job_on(dataset_of(parts, folder), writes_to_folder=True)
    parts.jobs.submit(job)
    monkeypatch.setattr(Path, "replace", refuse)
    InlineWorker(parts).do_all()
    assert "0000.jpg: Operation not permitted" in (parts.jobs.status(job.id).error or "")
    assert {path.name for path in folder.iterdir()} == {"0000.jpg", ".semicap.jsonl"}


def test_photos_of_one_stem_have_texts_of_their_own_also_after_a_retry(
    parts: JobParts, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("c.jpg", "c.png", "d.png")):
        (folder / name).write_bytes(photo(number))
    (folder / "c.jpg").write_bytes(photo(0)[:99])  # the first of its stem fails
    job = job_on(dataset_of(parts, folder), writes_to_folder=True)
    parts.jobs.submit(job)
    worker = InlineWorker(parts)
    worker.do_all()
    texts = {"c.png.txt": "a picture of 9 by 8\n", "d.txt": "a picture of 10 by 8\n"}
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == texts

    (folder / "c.jpg").write_bytes(photo(0))
    parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
    worker.do_all()
    texts["c.txt"] = "a picture of 8 by 8\n"
    assert {path.name: path.read_text() for path in folder.glob("*.txt")} == texts

    again = job_on(dataset_of(parts, folder), writes_to_folder=True)
    parts.jobs.submit(again)
    worker.do_all()
    assert parts.jobs.status(again.id).counts.skipped == 3


def test_photo_that_vanished_is_an_error_line(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=3)
    job = job_on(dataset_of(parts, folder))
    (folder / "0001.jpg").unlink()
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert [result.outcome for result in parts.jobs.results(job.id)] == ["captioned", "failed", "captioned"]
    (folder / "0001.jpg").write_bytes(photo(1))


def test_pipe_is_left_out_as_reading_it_would_never_end(parts: JobParts, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", good=1)
    os.mkfifo(folder / "pipe.jpg")
    dataset = dataset_of(parts, folder)
    assert (dataset.num_items, [one.name for one in dataset.rejected]) == (1, ["pipe.jpg"])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
