"""What tests of datasets and jobs over HTTP share."""

import io
import json
import zipfile
from typing import Any

from starlette.testclient import TestClient

from service.jobs.parts import JobParts
from tests.service.conftest import parts_of
from tests.service.jobs.conftest import photo
from tests.service.jobs.fakes import InlineWorker


def job_parts(client: TestClient) -> JobParts:
    service = parts_of(client).jobs
    assert service is not None
    return service.parts


def archive(count: int, **others: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for number in range(count):
            zipped.writestr(f"{number:04d}.jpg", photo(number))
        for name, data in others.items():
            zipped.writestr(name.replace("_", "."), data)
    return file.getvalue()


def upload(client: TestClient, count: int, **others: bytes) -> dict[str, Any]:
    answer = client.post(
        "/v1/datasets", content=archive(count, **others), headers={"Content-Type": "application/zip"}
    )
    assert answer.status_code == 201, answer.text
    dataset: dict[str, Any] = answer.json()
    return dataset


def submit(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs/captions", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    return job


def finish(client: TestClient) -> InlineWorker:
    worker = InlineWorker(job_parts(client))
    worker.do_all()
    return worker


def lines(client: TestClient, address: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.get(address).text.splitlines()]
