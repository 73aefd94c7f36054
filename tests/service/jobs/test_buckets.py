"""Prefixes of buckets as datasets, against a server that speaks S3."""

from collections import Counter
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.errors import BucketNotAllowedError, InvalidDatasetError, StoreUnavailableError
from service.jobs.buckets import allowed_uri, dataset_of_bucket
from service.jobs.documents import Dataset
from service.jobs.failures import worth_retrying
from service.jobs.outputs import errors
from service.jobs.parts import JobParts
from service.settings import Settings
from tests.service.jobs.conftest import job_on, photo
from tests.service.jobs.fakes import InlineWorker
from tests.service.jobs.s3 import S3, running_s3

ROOT = "s3://photos/2024"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A bucket with seven photos below `2024`, and what is none of the job's business."""
    with running_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for number in range(7):
            server.put(f"2024/{'deep/' * (number % 2)}{number:04d}.jpg", photo(number))
        for other in ("2024/notes.txt", "2024/.hidden/x.jpg", "2024-secret/0.jpg", "private/0.jpg"):
            server.put(other, photo(30))
        yield server


def bucket_dataset(parts: JobParts, uri: str = ROOT, *, most: int = 100) -> Dataset:
    return dataset_of_bucket(uri, store=parts.store, roots=[ROOT], max_items=most)


def test_photos_of_a_prefix_are_captioned_where_they_lie(parts: JobParts, s3: S3) -> None:
    dataset = bucket_dataset(parts)
    assert (dataset.num_items, dataset.uri, dataset.num_rejected) == (7, ROOT, 0)
    names = [item.name for _, item in parts.datasets.items(dataset.id, range(7))]
    assert names == sorted(f"{'deep/' * (number % 2)}{number:04d}.jpg" for number in range(7))
    assert parts.store.keys("images") == []
    job = job_on(dataset, outputs=("webdataset",))
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    assert parts.jobs.status(job.id).counts.done == 7
    below = bucket_dataset(parts, f"{ROOT}/deep/")
    assert (below.num_items, below.uri) == (3, f"{ROOT}/deep")


def test_bad_objects_are_error_lines_and_a_retry_runs_what_was_mended(parts: JobParts, s3: S3) -> None:
    s3.put("2024/broken.jpg", photo()[:99])
    s3.put("2024/denied.jpg", photo())
    s3.put("2024/gone.jpg", photo())
    job = job_on(bucket_dataset(parts))
    s3.denied.add("2024/denied.jpg")
    del s3.objects["2024/gone.jpg"]
    parts.jobs.submit(job)
    InlineWorker(parts).do_all()
    lines = {line["file_name"]: line["problem"]["detail"] for line in errors(parts.jobs.results(job.id))}
    assert set(lines) == {"broken.jpg", "denied.jpg", "gone.jpg"}
    assert "does not let this service read it" in lines["denied.jpg"]
    assert "not in the bucket any more" in lines["gone.jpg"]
    s3.put("2024/broken.jpg", photo(1))
    _, retried = parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
    InlineWorker(parts).do_all()
    assert retried == 3, "what is gone or denied now looks different from when it was listed"
    found = Counter(result.outcome for result in parts.jobs.results(job.id))
    assert found == {"captioned": 8, "failed": 2}


def test_bucket_with_too_many_objects_or_that_is_not_there_is_refused(parts: JobParts, s3: S3) -> None:
    with pytest.raises(InvalidDatasetError, match="more than 6 photos"):
        bucket_dataset(parts, most=6)
    with pytest.raises(InvalidDatasetError, match="more than 4 objects"):
        bucket_dataset(parts, most=1)
    with pytest.raises(InvalidDatasetError, match="no photo"):
        bucket_dataset(parts, f"{ROOT}/empty")
    with pytest.raises((InvalidDatasetError, StoreUnavailableError)):
        dataset_of_bucket("s3://none", store=parts.store, roots=["s3://none"], max_items=9)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://photos",
        "s3://photos/2024-secret",
        "s3://photos/2024/../private",
        "s3://photos/2024//x",
        "s3://photos/2024/%2e%2e/private",
        "s3://photos@127.0.0.1/2024",
        "s3://photos:80/2024",
        "s3://photos/2024?endpoint=http://169.254.169.254",
        "s3://PHOTOS/2024",
        "gs://photos/2024",
        "https://photos.s3.amazonaws.com/2024",
        "http://169.254.169.254/latest",
        "file:///etc",
        "memory:///2024",
        "s3://[::1]/2024",
    ],
)
def test_other_place_than_the_operator_names_is_refused(uri: str) -> None:
    with pytest.raises(BucketNotAllowedError, match="SEMICAP_DATASET_BUCKETS"):
        allowed_uri(uri, [ROOT])


def test_setting_takes_prefixes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMICAP_DATASET_BUCKETS", "s3://a/b, gs://c")
    assert Settings().dataset_buckets == ("s3://a/b", "gs://c")
    with pytest.raises(ValidationError, match="is not s3://bucket/prefix"):
        Settings(dataset_buckets=("http://10.0.0.1/",))


def test_bucket_over_http(client: TestClient) -> None:
    for address, asked in (("datasets", {"uri": ROOT}), ("jobs/captions", {"uri": ROOT})):
        answer = client.post(f"/v1/{address}", json=asked)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:semicap:problem:bucket-not-allowed")
    answer = client.post("/v1/datasets", json={"uri": ROOT, "folder": "/x"})
    assert (answer.status_code, "exactly one" in answer.json()["detail"]) == (422, True)
