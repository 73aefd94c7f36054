"""Errors that no adapter's route raises itself have its protocol's shape all the same."""

import pytest
from starlette.testclient import TestClient

from service.registry import ServedModel
from tests.service.clients import CAT, data_url, encoded
from tests.service.conftest import MakeClient, parts_of

OPENAI = "/v1/chat/completions"
CHAT = {
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url()}}]},
    ]
}


@pytest.fixture(scope="module")
def small(make_client: MakeClient) -> TestClient:
    """An application that takes short bodies and three images."""
    return make_client(max_queued_images=3, max_images_per_request=3, max_request_bytes=20_000)


def test_full_queue_is_openais_rate_limit_error(small: TestClient) -> None:
    with parts_of(small).engine.reserve(3):
        answer = small.post(OPENAI, json=CHAT)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "queue_full", None)


def test_long_body_is_refused_in_each_shape(small: TestClient) -> None:
    long = "x" * 30_000
    assert small.post(OPENAI, json={"messages": long}).json()["error"]["code"] == "request_too_large"
    assert "20 kB" in small.post("/api/generate", json={"prompt": long}).json()["error"]
    assert small.post("/api/v1/vision/caption", json={"id": long}).json()["code"] == 413
    assert "20 kB" in small.post("/models/semicap", content=long).json()["error"]
    assert small.post("/v1/captions", content=long).headers["content-type"] == "application/problem+json"


def test_model_that_fails_is_a_server_error(
    make_client: MakeClient, tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    monkeypatch.setattr(tiny_model.captioner.decoder, "step", None)
    answer = client.post(OPENAI, json=CHAT)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["X-Request-ID"]


def test_failure_in_a_stream_is_said_in_the_protocols_shape(
    make_client: MakeClient, tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, step, steps = make_client(), tiny_model.captioner.decoder.step, iter(range(100))

    def failing(*arguments: object, **named: object) -> object:
        if next(steps) > 2:
            raise RuntimeError("the model is broken")
        return step(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny_model.captioner.decoder, "step", failing)
    asked = {"images": [encoded()], "options": {"strategy": "greedy", "min_tokens": 12}}
    last = client.post("/api/generate", json=asked).text.strip().split("\n")[-1]
    assert last.startswith('{"error": "')
    assert "RuntimeError" not in last


def test_unknown_address_and_method_have_the_shape_of_their_place(client: TestClient) -> None:
    assert set(client.get("/api/nothing").json()) == {"error"}
    assert client.get("/api/generate").status_code == 405
    assert client.get("/v1/nothing").json()["type"].endswith(":not-found")


def test_metrics_count_the_status_that_the_client_saw(make_client: MakeClient) -> None:
    client = make_client()
    assert client.post("/api/generate", json={"prompt": "Hello"}).status_code == 400
    assert (
        client.post("/v1/captions", content=CAT[:99], headers={"Content-Type": "image/jpeg"}).status_code
        == 422
    )
    text = client.get("/metrics").text
    assert 'route="/api/generate",status="400"} 1.0' in text
    assert 'route="/v1/captions",status="422"} 1.0' in text
