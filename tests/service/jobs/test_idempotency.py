"""Idempotency-Key over HTTP: the same request twice makes one job, a refused one leaves the key free."""

from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.errors import StoreUnavailableError
from service.jobs.idempotency import claimed_job_id
from service.model_registry import ModelRegistry
from tests.service.jobs.over_http import finish, job_parts, upload


def test_idempotency_key_makes_one_job_of_the_same_request(client: TestClient) -> None:
    asked = {"dataset": upload(client, 2)["id"]}
    headers = {"Idempotency-Key": "once"}
    first, again = (client.post("/v1/jobs/captions", json=asked, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/jobs/captions", json={**asked, "outputs": ["csv"]}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "urn:semicap:problem:idempotency-key-reused")
    finish(client)


def test_request_whose_first_is_not_done_is_409_then_taken_over(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"dataset": upload(client, 2)["id"]}
    body = {
        "dataset": asked["dataset"],
        "folder": None,
        "uri": None,
        "options": {},
        "outputs": [],
        "write_to_folder": False,
        "sidecar": "txt",
        "policy": "skip",
        "duplicates": "ignore",
        "duplicate_similarity": 0.95,
        "webhook": None,
    }
    with claimed_job_id(job_parts(client).jobs.archive, "half", body) as (claimed, _):
        pass  # as if its process had died here
    answer = client.post("/v1/jobs/captions", json=asked, headers={"Idempotency-Key": "half"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (409, True)
    monkeypatch.setattr("service.jobs.idempotency.TAKEN_OVER_AFTER", timedelta(0))
    answer = client.post("/v1/jobs/captions", json=asked, headers={"Idempotency-Key": "half"})
    assert (answer.status_code, answer.json()["id"]) == (202, claimed)
    finish(client)


def test_job_whose_first_request_failed_half_way_runs_when_it_is_asked_for_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job_id: str) -> None:
        raise StoreUnavailableError("no space left")

    asked, headers = {"dataset": upload(client, 2)["id"]}, {"Idempotency-Key": "torn"}
    jobs = job_parts(client)
    with monkeypatch.context() as patch:
        patch.setattr(jobs.jobs.archive, "mark_active", fail)
        assert client.post("/v1/jobs/captions", json=asked, headers=headers).status_code == 503
    answer = client.post("/v1/jobs/captions", json=asked, headers=headers)
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    jobs.keeper.look()
    finish(client)
    assert client.get(f"/v1/jobs/{answer.json()['id']}").json()["state"] == "succeeded"


def test_refused_request_leaves_its_key_free(client: TestClient) -> None:
    headers = {"Idempotency-Key": "refused"}
    for _ in range(2):
        answer = client.post("/v1/jobs/captions", json={"dataset": "ds-none"}, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:semicap:problem:dataset-not-found")
    answer = client.post("/v1/jobs/captions", json={"dataset": upload(client, 2)["id"]}, headers=headers)
    assert answer.status_code == 202
    finish(client)


def test_refused_finetune_leaves_its_key_free(
    client: TestClient, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = ModelRegistry(job_parts(client).store, tmp_path).publish(tiny_checkpoint, origin="imported").id
    headers = {"Idempotency-Key": "refused finetune"}
    for dataset, problem in ((upload(client, 2)["id"], "invalid-dataset"), ("ds-none", "dataset-not-found")):
        answer = client.post("/v1/jobs/finetunes", json={"dataset": dataset, "base": base}, headers=headers)
        assert answer.json()["type"] == f"urn:semicap:problem:{problem}"


def test_request_of_too_many_jobs_is_taken_when_there_is_room(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, headers = {"dataset": upload(client, 2)["id"]}, {"Idempotency-Key": "patient"}
    with monkeypatch.context() as patch:
        patch.setattr(job_parts(client).jobs, "_max_active", 0)
        assert client.post("/v1/jobs/captions", json=asked, headers=headers).status_code == 429
    assert client.post("/v1/jobs/captions", json=asked, headers=headers).status_code == 202
    finish(client)
