"""A busy, late or dead engine is answered for what it is; a client that leaves frees its place."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.registry import ServedModel
from service.settings import Settings
from tests.service import pictures
from tests.service.conftest import MakeClient, captions_scope, parts_of

PHOTO = pictures.encoded(pictures.cat(), "JPEG")
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def small(make_client: MakeClient) -> TestClient:
    """An application whose engine has three places."""
    return make_client(max_queued_images=3, max_images_per_request=3)


@pytest.fixture(autouse=True)
def no_place_is_lost(small: TestClient) -> Iterator[None]:
    yield
    assert _settles(lambda: parts_of(small).engine.depth == 0)


def test_full_queue_is_429_before_the_body_is_read(small: TestClient) -> None:
    with parts_of(small).engine.reserve(3):
        response = small.post("/v1/captions", content=PHOTO, headers=JPEG)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["type"] == "urn:semicap:problem:queue-full"
    assert small.post("/v1/captions", content=PHOTO, headers=JPEG).status_code == 200


def test_request_that_needs_more_places_than_are_left_is_429(small: TestClient) -> None:
    files = [("image", ("a.jpg", PHOTO))] * 3
    with parts_of(small).engine.reserve(1):
        assert small.post("/v1/captions", files=files).status_code == 429
    assert small.post("/v1/captions", files=files).status_code == 200


def test_bad_requests_give_their_place_back(small: TestClient) -> None:
    for _ in range(5):
        assert small.post("/v1/captions", content=b"text", headers=JPEG).status_code == 415
        assert small.post("/v1/captions?nonsense=1", content=PHOTO, headers=JPEG).status_code == 422


def test_answer_that_would_be_late_is_504(make_client: MakeClient) -> None:
    response = make_client(deadline_s=1e-6).post("/v1/captions", content=PHOTO, headers=JPEG)
    assert response.status_code == 504
    assert response.json()["type"] == "urn:semicap:problem:deadline-exceeded"


def test_client_that_leaves_frees_its_place_and_gets_no_answer(small: TestClient) -> None:
    messages = [{"type": "http.request", "body": PHOTO, "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    assert small.portal is not None
    small.portal.call(small.app, captions_scope(small), receive, send)
    assert sent == []
    assert '/v1/captions",status="499"} 1' in small.get("/metrics").text


def test_dead_engine_is_not_ready_and_answers_503(tiny_model: ServedModel) -> None:
    with TestClient(create_app(Settings(), tiny_model)) as client:
        assert client.get("/health/ready").status_code == 200
        parts_of(client).engine.stop(drain_s=0)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        assert client.post("/v1/captions", content=PHOTO, headers=JPEG).status_code == 503


def _settles(condition: Any, *, within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
