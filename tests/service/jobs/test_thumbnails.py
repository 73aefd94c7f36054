"""Small pictures of a dataset's photos."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.jobs.thumbnails import EDGE
from tests.service.jobs.conftest import photo
from tests.service.jobs.over_http import upload


def dataset_of(client: TestClient, **photos: bytes) -> str:
    files = [("file", (name.replace("_", "."), data)) for name, data in photos.items()]
    answer = client.post("/v1/datasets", files=files)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_thumbnail_is_a_small_jpeg_of_the_photo(client: TestClient) -> None:
    dataset = dataset_of(client, a_jpg=photo(1), b_jpg=photo(2))
    answer = client.get(f"/v1/datasets/{dataset}/thumbnails/0")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert "private" in answer.headers["Cache-Control"]
    with Image.open(BytesIO(answer.content)) as image:
        assert image.size == (9, 8)


def test_large_photo_is_made_small_and_upright(client: TestClient) -> None:
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (1200, 600), (200, 30, 30)).save(file, "JPEG", exif=exif)
    dataset = dataset_of(client, large_jpg=file.getvalue())
    answer = client.get(f"/v1/datasets/{dataset}/thumbnails/0")
    with Image.open(BytesIO(answer.content)) as image:
        assert image.size == (EDGE // 2, EDGE)


def test_broken_photo_and_missing_ones_are_told_apart(client: TestClient) -> None:
    dataset = upload(client, 1, broken_jpg=photo(0)[:200])["id"]
    broken = client.get(f"/v1/datasets/{dataset}/thumbnails/1")
    assert (broken.status_code, broken.json()["type"]) == (422, "urn:semicap:problem:broken-image")
    missing = client.get(f"/v1/datasets/{dataset}/thumbnails/2")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:semicap:problem:not-found")
    assert "has 2 photos" in missing.json()["detail"]
    assert client.get(f"/v1/datasets/{dataset}/thumbnails/-1").status_code == 422
    assert client.get("/v1/datasets/ds-none/thumbnails/0").status_code == 404


def test_photo_that_left_its_server_folder_is_not_found(client: TestClient, root: Path) -> None:
    folder = root / "thumbnails"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(photo(3))
    dataset = client.post("/v1/datasets", json={"folder": str(folder)}).json()["id"]
    assert client.get(f"/v1/datasets/{dataset}/thumbnails/0").status_code == 200
    (folder / "one.jpg").unlink()
    answer = client.get(f"/v1/datasets/{dataset}/thumbnails/0")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:semicap:problem:not-found")


def test_no_more_than_a_bounded_number_wait(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of(client, a_jpg=photo(1))
    monkeypatch.setattr("service.jobs.thumbnails.MAX_WAITING", 0)
    answer = client.get(f"/v1/datasets/{dataset}/thumbnails/0")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
