"""Jobs over HTTP, on the real application."""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.datasets import Datasets
from service.jobs.model_use import models_of_jobs
from service.jobs.store import ArtifactStore
from service.model_choice import Choice
from service.model_registry import ModelRegistry
from service.registry import ServedModel
from service.settings import Settings
from tests.service import pictures
from tests.service.conftest import MakeClient
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.conftest import photo
from tests.service.jobs.fakes import InlineWorker, worker_models
from tests.service.jobs.over_http import finish, job_parts, lines, submit, upload
from tests.tiny import tiny_checkpoint as make_tiny_checkpoint


def test_upload_job_and_results(client: TestClient) -> None:
    dataset = upload(client, 12, notes_txt=b"x", broken_jpg=photo()[:99])
    assert (dataset["items"], dataset["num_rejected"]) == (13, 1)
    (left_out,) = dataset["rejected"]
    assert left_out["file_name"] == "notes.txt"
    assert left_out["problem"]["type"] == "urn:semicap:problem:unsupported-image-format"
    assert left_out["problem"]["detail"] == "not a photo of a format that is read here"
    assert client.get(f"/v1/datasets/{dataset['id']}").json() == dataset

    job = submit(client, dataset=dataset["id"], options={"num_beams": 2}, outputs=["jsonl", "csv"])
    address = f"/v1/jobs/{job['id']}"
    assert (job["state"], job["counts"]["total"], job["outputs"]) == ("queued", 13, ["csv"])
    assert job["options"]["num_beams"] == 2
    assert job["options"]["model"].startswith("tiny:")
    assert client.get(f"{address}/results?output=csv").status_code == 409
    finish(client)
    job = client.get(address).json()
    assert job["state"] == "succeeded"
    assert job["counts"] == {"total": 13, "done": 12, "failed": 1, "skipped": 0}
    assert job["links"] == {
        "self": address,
        "events": f"{address}/events",
        "results": f"{address}/results",
        "errors": f"{address}/errors",
    }
    results = lines(client, job["links"]["results"])
    assert [line["file_name"] for line in results] == [f"{number:04d}.jpg" for number in range(12)]
    (error,) = lines(client, job["links"]["errors"])
    assert error["file_name"] == "broken.jpg"
    assert error["problem"]["type"] == "urn:semicap:problem:broken-image"
    table = client.get(f"{address}/results?output=csv")
    assert len(table.text.splitlines()) == 13
    assert f"{job['id']}-captions.csv" in table.headers["Content-Disposition"]
    assert client.get(f"{address}/results?output=xmp").status_code == 404


@pytest.mark.parametrize(
    ("asked", "status", "problem"),
    [
        ({"dataset": "ds-none"}, 404, "dataset-not-found"),
        ({"dataset": "../secret"}, 404, "dataset-not-found"),
        ({"dataset": "x", "folder": "y"}, 422, "invalid-request"),
        ({"folder": "/etc"}, 403, "folder-not-allowed"),
        ({"folder": "photos"}, 422, "invalid-request"),
        ({"folder": "/x/\0"}, 422, "invalid-request"),
        ({"folder": "\ud800"}, 422, "invalid-request"),
        ({"dataset": "x", "options": {"\ud800": 1}}, 422, "unknown-option"),
        ({"dataset": "x", "options": {"prefix": "\ud800"}}, 422, "invalid-option"),
        ({"dataset": "x", "\ud800": "red"}, 422, "invalid-request"),
        ({"dataset": "x", "options": {"num_beam": 2}}, 422, "unknown-option"),
        ({"dataset": "x", "options": {"num_beams": 99}}, 422, "invalid-option"),
        ({"dataset": "x", "options": {"model": "other"}}, 404, "model-not-found"),
        ({"dataset": "x", "webhook": {"url": "https://example.org"}}, 422, "invalid-request"),
        ({"dataset": "x", "colour": "red"}, 422, "invalid-request"),
    ],
)
def test_wrong_request_is_a_problem_and_makes_no_job(
    client: TestClient, asked: dict[str, Any], status: int, problem: str
) -> None:
    before = len(job_parts(client).jobs.archive.ids())
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/jobs/captions", content=json.dumps(asked), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:semicap:problem:{problem}")
    assert len(job_parts(client).jobs.archive.ids()) == before


def test_prefix_that_leaves_no_room_makes_no_job(client: TestClient) -> None:
    options: dict[str, str | int] = {"prefix": "the dog runs on grass", "max_tokens": 2}
    answer = client.post("/v1/jobs/captions", json={"dataset": upload(client, 1)["id"], "options": options})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:semicap:problem:invalid-option")
    (photo_file,) = pictures.photos(1)
    now = client.post(
        "/v1/captions", params=options, content=photo_file, headers={"Content-Type": "image/jpeg"}
    )
    assert answer.json()["detail"] == now.json()["detail"]
    assert "it must be shorter than 2 tokens" in answer.json()["detail"]


def test_unknown_job_is_404_everywhere(client: TestClient) -> None:
    for address in ("", "/events", "/results", "/errors", "/results?output=csv"):
        assert client.get(f"/v1/jobs/job-none{address}").status_code == 404
    assert client.delete("/v1/jobs/job-none").status_code == 404
    assert client.post("/v1/jobs/job-none/retry").status_code == 404


def test_jobs_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    dataset = upload(client, 1)["id"]
    made = [submit(client, dataset=dataset)["id"] for _ in range(5)]
    finish(client)
    found, cursor = list[str](), None
    while len(found) < 5:
        page = client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
    assert found[:5] == made[::-1]
    assert client.get("/v1/jobs?limit=101").status_code == 422


def events(client: TestClient, job: str, **headers: str) -> list[dict[str, str]]:
    found = []
    with client.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                found.append(fields)
    return found


def test_events_tell_a_job_from_any_point_to_its_end(client: TestClient) -> None:
    job = submit(client, dataset=upload(client, 12)["id"])["id"]
    finish(client)
    seen = events(client, job)
    assert [event["event"] for event in seen][:: len(seen) - 1] == ["queued", "succeeded"]
    assert json.loads(seen[-1]["data"])["done"] == 12
    later = events(client, job, **{"Last-Event-ID": seen[-2]["id"]})
    assert later == seen[-1:]
    job_parts(client).jobs.board.client.flushall()
    (last,) = events(client, job)
    assert (last["event"], json.loads(last["data"])["done"]) == ("succeeded", 12)


def test_cancel_and_retry(client: TestClient) -> None:
    job = submit(client, dataset=upload(client, 12)["id"])["id"]
    answer = client.delete(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    assert client.post(f"/v1/jobs/{job}/retry").status_code == 409
    assert finish(client).captions.done == []
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "canceled"
    assert client.delete(f"/v1/jobs/{job}").status_code == 409
    answer = client.post(f"/v1/jobs/{job}/retry")
    assert (answer.status_code, answer.json()["retried"], answer.json()["attempt"]) == (202, 12, 2)
    finish(client)
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"


def test_pause_and_resume(client: TestClient) -> None:
    job = submit(client, dataset=upload(client, 12)["id"])["id"]
    answer = client.post(f"/v1/jobs/{job}/pause")
    assert (answer.status_code, answer.json()["state"]) == (202, "paused")
    assert finish(client).captions.done == []
    answer = client.post(f"/v1/jobs/{job}/resume")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    finish(client)
    assert client.get(f"/v1/jobs/{job}").json()["counts"]["done"] == 12
    assert [event["event"] for event in events(client, job)][:3] == ["queued", "paused", "resumed"]
    assert client.post(f"/v1/jobs/{job}/pause").status_code == 409


def test_queue_is_in_the_metrics(client: TestClient) -> None:
    job = submit(client, dataset=upload(client, 12)["id"])["id"]
    text = client.get("/metrics").text
    assert "semicap_job_queue_depth 2.0" in text
    assert "semicap_jobs_active" in text
    oldest = re.search(r"^semicap_job_queue_oldest_seconds (\S+)$", text, re.MULTILINE)
    assert oldest is not None
    assert 0 < float(oldest[1]) < 600
    client.post(f"/v1/jobs/{job}/pause")
    assert "semicap_job_queue_oldest_seconds 0.0" in client.get("/metrics").text, "it waits for a person"
    client.delete(f"/v1/jobs/{job}")
    finish(client)


def test_service_without_a_broker_captions_and_says_what_jobs_need(make_client: MakeClient) -> None:
    client = make_client()
    answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:semicap:problem:broker-unavailable")
    assert client.get("/health/ready").status_code == 200


def test_worker_captions_as_the_api_does(
    client: TestClient, tiny_model: ServedModel, tiny_checkpoint: Path
) -> None:
    photos = pictures.photos(6)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for number, data in enumerate([*photos, pictures.truncated_jpeg(pictures.cat())]):
            zipped.writestr(f"{number}.jpg", data)
    dataset = client.post(
        "/v1/datasets", content=file.getvalue(), headers={"Content-Type": "application/zip"}
    ).json()
    job = submit(client, dataset=dataset["id"], options={"strategy": "greedy"})["id"]
    parts = job_parts(client)
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6)
    with worker_models(parts, Choice(tiny_model.entry, tiny_checkpoint, is_pinned=True)) as models:
        captioner = ItemCaptioner(models, parts.datasets, limits=limits, decode_threads=2)
        InlineWorker(parts, captioner=captioner).do_all()
    results = lines(client, f"/v1/jobs/{job}/results")
    assert len(results) == 6
    for data, line in zip(photos, results, strict=True):
        answer = client.post(
            "/v1/captions?strategy=greedy", content=data, headers={"Content-Type": "image/jpeg"}
        )
        (expected,) = answer.json()["results"]
        assert line["captions"][0]["text"] == expected["captions"][0]["text"]
        assert line["image"] == expected["image"]
        assert line["model"] == answer.json()["model"]
    (error,) = lines(client, f"/v1/jobs/{job}/errors")
    assert (error["file_name"], error["problem"]["type"]) == ("6.jpg", "urn:semicap:problem:broken-image")


def test_worker_captions_with_the_version_that_the_job_names(
    broker: RunningBroker, tiny_model: ServedModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path, redis_url=broker.url, precision="fp32", checkpoint=Path("tiny"), job_chunk_items=5
    )
    store = ArtifactStore.open(settings.store_location)
    registry = ModelRegistry(store, settings.model_cache)
    other, gone = (
        registry.publish(make_tiny_checkpoint(tmp_path / str(seed), seed=seed), origin="imported")
        for seed in (7, 8)
    )
    broker.flush()
    with TestClient(create_app(settings, tiny_model, registry=registry)) as client:
        job_parts(client).keeper.stop()
        dataset = upload(client, 3)["id"]
        wanted = [{}, {"model": other.version}, {"model": gone.id}, {"model": "tiny"}]
        jobs = [submit(client, dataset=dataset, options={"strategy": "greedy", **one}) for one in wanted]
        assert list(models_of_jobs(store)) == [tiny_model.id, other.id, gone.id]
        unknown = client.post("/v1/jobs/captions", json={"dataset": dataset, "options": {"model": "none"}})
        assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:semicap:problem:model-not-found")

        store.delete([f"models/versions/tiny/{gone.version}.json"])
        limits = ImageLimits(max_bytes=10**6, max_pixels=10**6)
        default = Choice(tiny_model.entry, tiny_checkpoint, is_pinned=True)
        with worker_models(job_parts(client), default) as models:
            captioner = ItemCaptioner(models, Datasets(store), limits=limits, decode_threads=2)
            InlineWorker(job_parts(client), captioner=captioner).do_all()
            registry.activate(other.id)
            assert models.serve(None).model.id == tiny_model.id
        for job, version in zip(jobs, (tiny_model, other, None, tiny_model), strict=True):
            results = lines(client, f"/v1/jobs/{job['id']}/results")
            made_by = [line["model"]["version"] for line in results]
            assert made_by == ([version.version] * 3 if version else [])
        errors = lines(client, f"/v1/jobs/{jobs[2]['id']}/errors")
        assert [line["problem"]["type"] for line in errors] == ["urn:semicap:problem:model-unavailable"] * 3
        assert client.post(f"/v1/jobs/{jobs[2]['id']}/retry").json()["retried"] == 3
    broker.flush()  # what waits is of a store that goes with this test
