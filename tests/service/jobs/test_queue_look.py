"""What the metrics say of the jobs while a part that they ask does not answer."""

import re

import pytest
from starlette.testclient import TestClient

from service.errors import StoreUnavailableError
from service.jobs.archive import JobArchive
from tests.service.conftest import MakeClient
from tests.service.jobs.broker import RunningBroker
from tests.service.jobs.over_http import finish, job_parts, submit, upload


def value(client: TestClient, metric: str) -> str:
    found = re.search(rf"^{metric} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return found[1]


def test_hanging_broker_is_in_the_metrics_beside_what_the_store_knows(
    client: TestClient, broker: RunningBroker
) -> None:
    submit(client, dataset=upload(client, 12)["id"])
    active = float(len(job_parts(client).jobs.archive.active()))
    assert value(client, "semicap_broker_up") == "1.0"
    with broker.hanging():
        assert value(client, "semicap_broker_up") == "0.0"
        assert value(client, "semicap_job_queue_depth") == "NaN"
        assert value(client, "semicap_job_queue_oldest_seconds") == "NaN"
        assert float(value(client, "semicap_jobs_active")) == active > 0
    assert value(client, "semicap_job_queue_depth") == "2.0"
    assert value(client, "semicap_broker_up") == "1.0"
    finish(client)


def test_store_that_does_not_answer_leaves_what_the_broker_knows(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(archive: JobArchive) -> list[str]:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(JobArchive, "active", away)
    assert value(client, "semicap_jobs_active") == "NaN"
    assert value(client, "semicap_broker_up") == "1.0"


def test_service_without_a_broker_says_nothing_of_it(make_client: MakeClient) -> None:
    assert value(make_client(), "semicap_broker_up") == "NaN"
