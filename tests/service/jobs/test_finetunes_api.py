"""Fine-tuning jobs over HTTP, on the real application; what trains is tested by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.jobs.dataset_captions import read_captions
from service.jobs.documents import ModelMade, TrainingRecord
from service.jobs.queue import FINETUNE_QUEUE
from service.keys import KeyStore, Scope
from service.model_registry import ModelRegistry
from tests.service.conftest import MakeClient
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.over_http import finish, job_parts, lines, upload
from tests.service.jobs.test_jobs_api import events
from tests.service.jobs.trained import train


@pytest.fixture(scope="module")
def base(client: TestClient, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    registry = ModelRegistry(job_parts(client).store, tmp_path_factory.mktemp("cache"))
    return registry.publish(tiny_checkpoint, origin="imported").id


@pytest.fixture(scope="module")
def dataset(client: TestClient) -> str:
    return str(upload(client, 60)["id"])


def submit(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs/finetunes", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    return job


def test_job_ends_with_its_model_and_gate(client: TestClient, base: str, dataset: str) -> None:
    job = submit(client, dataset=dataset, base=base, settings={"steps": 20}, auto_activate=True)
    assert (job["kind"], job["state"], job["base"], job["auto_activate"]) == (
        "finetune",
        "queued",
        base,
        True,
    )
    assert (job["settings"]["steps"], job["settings"]["samples"]) == (20, 4)
    assert job["progress"] == {"phase": "preparing", "step": 0, "steps": 20}
    gate = {"passed": True, "checks": [], "reason": "passed"}
    curve = ({"step": 1, "loss": 0.5}, {"step": 20, "loss": 0.4, "clip_similarity": 0.6})
    made = ModelMade(id="tiny:abc", gate=gate, is_activated=True)
    train(job_parts(client), job["id"], TrainingRecord(attempt=1, step=20, steps=20, curve=curve, model=made))
    finish(client)

    answer = client.get(f"/v1/jobs/{job['id']}").json()
    assert (answer["state"], answer["counts"]["done"]) == ("succeeded", 60)
    assert answer["curve"] == list(curve)
    assert answer["model"]["links"]["report"] == "/v1/models/tiny:abc/report"
    assert (answer["model"]["gate"], answer["model"]["is_activated"]) == (gate, True)
    assert lines(client, f"/v1/jobs/{job['id']}/results") == []
    told = events(client, job["id"])
    assert [json.loads(one["data"])["step"] for one in told if one["event"] == "curve"] == [1, 20]
    assert json.loads(told[-1]["data"])["model"]["id"] == "tiny:abc"
    listed = next(one for one in client.get("/v1/jobs").json()["data"] if one["id"] == job["id"])
    assert listed["curve"] is None
    assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 409


def test_failed_job_says_why_and_is_run_again_from_its_beginning(
    client: TestClient, base: str, dataset: str
) -> None:
    job = submit(client, dataset=dataset, base=base)["id"]
    train(job_parts(client), job, TrainingRecord(attempt=1, steps=100, error="the loss is nan at step 3"))
    finish(client)
    answer = client.get(f"/v1/jobs/{job}").json()
    assert (answer["state"], answer["error"]) == ("failed", "the loss is nan at step 3")
    again = client.post(f"/v1/jobs/{job}/retry").json()
    assert (again["attempt"], again["retried"], again["error"], again["curve"]) == (2, 60, None, [])
    assert client.delete(f"/v1/jobs/{job}").status_code == 202
    finish(client)
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "canceled"
    job_parts(client).jobs.board.client.delete(FINETUNE_QUEUE)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"settings": {"step": 3}}, 422, "did you mean 'steps'"),
        ({"settings": {"lr": 2}}, 422, "less than or equal to 1"),
        ({"base": "nobody"}, 404, "there is no model 'nobody'"),
        ({"dataset": "ds-none"}, 404, "no dataset"),
        ({"replay_dataset": "ds-none"}, 404, "no dataset"),
        ({"folder": "/etc"}, 422, "exactly one of"),
        ({"webhook": {"url": "https://example.org"}}, 422, "webhooks are off"),
    ],
)
def test_wrong_request_says_what_is_wrong(
    client: TestClient, base: str, dataset: str, asked: dict[str, Any], status: int, said: str
) -> None:
    answer = client.post("/v1/jobs/finetunes", json={"dataset": dataset, "base": base, **asked})
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_too_few_photos_and_captions_that_are_not_there_are_refused_at_once(
    client: TestClient, base: str, dataset: str
) -> None:
    few = upload(client, 49)["id"]
    answer = client.post("/v1/jobs/finetunes", json={"dataset": few, "base": base})
    assert (answer.status_code, "needs 50" in answer.json()["detail"]) == (422, True)
    asked = {"dataset": dataset, "base": base, "replay_dataset": dataset}
    answer = client.post("/v1/jobs/finetunes", json=asked)
    assert (answer.status_code, "metadata.jsonl" in answer.json()["detail"]) == (422, True)


def test_captions_of_an_archive_are_kept_with_its_photos(client: TestClient, base: str, dataset: str) -> None:
    captions = b'{"file_name": "0000.jpg", "text": "a dog"}\n'
    labelled = upload(client, 3, metadata_jsonl=captions)
    assert labelled["rejected"] == []
    parts = job_parts(client)
    assert read_captions(parts.datasets.get(labelled["id"]), parts.store) == captions
    job = submit(client, dataset=dataset, base=base, replay_dataset=labelled["id"])
    assert job["replay_dataset"] == labelled["id"]
    client.delete(f"/v1/jobs/{job['id']}")
    finish(client)
    parts.jobs.board.client.delete(FINETUNE_QUEUE)


def test_same_request_with_its_key_makes_one_job(client: TestClient, base: str, dataset: str) -> None:
    asked = {"dataset": dataset, "base": base}
    headers = {"Idempotency-Key": "tune"}
    ids = {client.post("/v1/jobs/finetunes", json=asked, headers=headers).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    client.delete(f"/v1/jobs/{ids.pop()}")
    finish(client)
    job_parts(client).jobs.board.client.delete(FINETUNE_QUEUE)


@pytest.mark.parametrize("scope", [Scope.JOBS, Scope.ADMIN])
def test_only_an_admin_may_have_the_new_version_answer_at_once(
    make_client: MakeClient, broker: RunningBroker, tiny_checkpoint: Path, tmp_path: Path, scope: Scope
) -> None:
    secret, key = KeyStore(tmp_path / "keys.json").create("a", (scope,))
    closed = make_client(data_dir=tmp_path, redis_url=broker.url)
    parts = job_parts(closed)
    parts.keeper.stop()
    closed.headers["X-API-Key"] = secret
    base = ModelRegistry(parts.store, tmp_path / "cache").publish(tiny_checkpoint, origin="imported").id
    asked = {"dataset": upload(closed, 60)["id"], "base": base}
    answer = closed.post("/v1/jobs/finetunes", json={**asked, "auto_activate": True})
    if scope is Scope.JOBS:
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:semicap:problem:missing-scope")
        assert all(said in answer.json()["detail"] for said in ("scope admin", key.id, "Leave it out"))
        assert parts.jobs.archive.ids() == []
        answer = closed.post("/v1/jobs/finetunes", json=asked)
    assert answer.status_code == 202, answer.text
    parts.jobs.board.client.delete(FINETUNE_QUEUE)
