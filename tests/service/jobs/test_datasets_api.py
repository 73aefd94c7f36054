"""Datasets over HTTP, on the real application."""

import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.uploading import spool_forms
from service.jobs.tar_stream import tar_of
from service.settings import Settings
from tests.service import pictures
from tests.service.jobs.conftest import photo, photo_folder
from tests.service.jobs.over_http import archive, finish, submit, upload


def test_form_may_mix_photos_and_archives(client: TestClient) -> None:
    files = [("file", ("a.jpg", photo(99))), ("file", ("b.zip", archive(2)))]
    answer = client.post("/v1/datasets", files=files)
    assert (answer.status_code, answer.json()["items"]) == (201, 3)


def test_file_of_a_form_that_has_no_name_for_its_caption_is_left_out(client: TestClient) -> None:
    files = [("file", (".", photo(98))), ("file", ("a.jpg", photo(99)))]
    answer = client.post("/v1/datasets", files=files)
    assert (answer.status_code, answer.json()["items"], answer.json()["num_rejected"]) == (201, 1, 1)


def test_folder_is_taken_without_the_file_whose_name_is_not_utf8(client: TestClient) -> None:
    tar = b"".join(tar_of(iter([("\udcff.jpg", photo(1)), ("a.jpg", photo(2))])))  # as semicap jobs packs it
    answer = client.post("/v1/datasets", content=tar, headers={"Content-Type": "application/x-tar"})
    assert (answer.status_code, answer.json()["items"]) == (201, 1)
    assert answer.json()["rejected"][0]["file_name"] == "'\\udcff.jpg'"


def test_form_that_cannot_be_read_or_has_no_photo_says_so(client: TestClient) -> None:
    many = [("file", (f"{number}.jpg", photo(number))) for number in range(201)]
    answer = client.post("/v1/datasets", files=many)
    assert (answer.status_code, "go into a zip" in answer.json()["detail"]) == (422, True)
    for content_type, status in (("multipart/form-data", 422), ("text/html", 415)):
        answer = client.post("/v1/datasets", content=b"x", headers={"Content-Type": content_type})
        assert (answer.status_code, "zip." in answer.json()["detail"]) == (status, False)
    answer = client.post("/v1/datasets", files=[("file", ("a.txt", b"text"))])
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:semicap:problem:invalid-dataset")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_large_file_of_a_form_lies_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    spool_forms(Settings(data_dir=tmp_path))
    with tempfile.SpooledTemporaryFile(max_size=1) as file:  # as starlette's parser makes them
        file.write(b"more than one byte")
        assert Path(f"/proc/self/fd/{file.fileno()}").readlink().is_relative_to(tmp_path)


@pytest.mark.parametrize("is_form", [True, False])
def test_upload_that_the_disk_has_no_room_for_is_a_problem_document(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, is_form: bool
) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", full)
    more = {"files": [("file", ("a.jpg", photo(1)))]} if is_form else {"content": archive(1)}
    headers = {} if is_form else {"Content-Type": "application/zip"}
    answer = client.post("/v1/datasets", headers=headers, **more)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:semicap:problem:store-unavailable")
    assert "full or cannot be written" in answer.json()["detail"]


def test_upload_may_be_larger_than_a_request_but_not_than_a_dataset(client: TestClient) -> None:
    noise = [pictures.encoded(pictures.cat(300), "PNG") for _ in range(2)]
    assert 100_000 < sum(map(len, noise)) < 2_000_000
    upload(client, 1, a_png=noise[0], b_png=noise[1])
    answer = client.post(
        "/v1/datasets", content=bytes(2_000_001), headers={"Content-Type": "application/zip"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "content_type", ["application/jsonl", "application/json-seq", "application/jsonx; a=b"]
)
def test_only_json_itself_is_read_as_json(client: TestClient, content_type: str) -> None:
    body = b'{"folder": "' + bytes(200_000) + b'"}'  # beyond the limit of a request
    answer = client.post("/v1/datasets", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 415


def test_json_is_known_however_its_type_is_written(client: TestClient) -> None:
    for content_type in ("Application/JSON", "application/json ;charset=utf-8"):
        headers = {"Content-Type": content_type}
        answer = client.post("/v1/datasets", content=b'{"folder": "/etc"}', headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:semicap:problem:folder-not-allowed")
        assert client.post("/v1/datasets", content=bytes(200_000), headers=headers).status_code == 413


def test_folder_of_the_server(client: TestClient, root: Path) -> None:
    folder = photo_folder(root / "holiday", good=3)
    answer = client.post("/v1/datasets", json={"folder": str(folder)})
    assert (answer.status_code, answer.json()["folder"]) == (201, str(folder))
    job = submit(client, folder=str(folder), write_to_folder=True)
    finish(client)
    assert client.get(f"/v1/jobs/{job['id']}").json()["counts"]["done"] == 3
    assert (folder / "0001.txt").exists()
    assert client.post("/v1/datasets", json={"folder": "/etc"}).status_code == 403
    assert client.post("/v1/datasets", json={"dir": "/etc"}).status_code == 422


def test_write_to_folder_needs_a_folder(client: TestClient) -> None:
    asked = {"dataset": upload(client, 1)["id"], "write_to_folder": True}
    assert "upload" in client.post("/v1/jobs/captions", json=asked).json()["detail"]
