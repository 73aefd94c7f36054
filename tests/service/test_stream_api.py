"""POST /v1/captions/stream through the real application."""

import asyncio
import threading
from itertools import pairwise
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.registry import ServedModel
from tests.service import pictures
from tests.service.conftest import MakeClient, captions_scope, parts_of
from tests.service.server_events import events_of

CAT = pictures.encoded(pictures.cat(), "JPEG", quality=90)
JPEG = {"Content-Type": "image/jpeg"}


def stream(client: TestClient, query: str) -> list[tuple[str, Any]]:
    response = client.post(f"/v1/captions/stream?{query}", content=CAT, headers=JPEG)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


@pytest.mark.parametrize(
    "query",
    ["strategy=greedy", "strategy=sample&seed=3", "strategy=greedy&sentence_case=true&final_stop=add"],
)
def test_tokens_begin_the_caption_of_the_result(client: TestClient, query: str) -> None:
    words = (
        "the%20dog%20runs%20on%20the%20grass"  # random weights may write signs alone, which are never certain
    )
    *tokens, (last, result) = stream(client, f"{query}&min_tokens=12&prefix={words}")
    assert {name for name, _ in tokens} == {"token"}
    written = "".join(data["text"] for _, data in tokens)
    (caption,) = result["results"][0]["captions"]
    assert last == "result"
    assert caption["text"].startswith(written)
    assert tokens


def test_result_is_the_answer_without_streaming(client: TestClient) -> None:
    for query in ("strategy=greedy", "num_captions=2", "strategy=sample&num_captions=2"):
        _, result = stream(client, query)[-1]
        answer = client.post(f"/v1/captions?{query}", content=CAT, headers=JPEG).json()
        assert result["results"] == answer["results"]
        assert set(result) == set(answer)


def test_beam_sends_its_best_hypothesis_until_it_is_decided(client: TestClient) -> None:
    *hypotheses, (last, _) = stream(client, "strategy=beam&min_tokens=12&no_repeat_ngram_size=0")
    assert last == "result"
    assert {name for name, _ in hypotheses} == {"hypothesis"}
    texts = [data["text"] for _, data in hypotheses]
    assert len(texts) > 1
    assert all(text != following for text, following in pairwise(texts))


def test_each_sample_has_its_own_tokens(client: TestClient) -> None:
    *tokens, _ = stream(client, "strategy=sample&num_captions=3&min_tokens=12")
    assert {data["index"] for _, data in tokens} == {0, 1, 2}


@pytest.mark.parametrize(
    ("content", "query", "status"),
    [(b"text", "", 415), (CAT, "num_beam=2", 422), (CAT, "model=other", 404), (b"", "", 422)],
)
def test_what_cannot_be_captioned_is_a_problem_with_its_status(
    client: TestClient, content: bytes, query: str, status: int
) -> None:
    response = client.post(f"/v1/captions/stream?{query}", content=content, headers=JPEG)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert parts_of(client).engine.depth == 0


def test_several_images_are_refused(client: TestClient) -> None:
    files = [("image", ("a.jpg", CAT)), ("image", ("b.jpg", CAT))]
    response = client.post("/v1/captions/stream", files=files)
    assert response.status_code == 413
    assert response.json()["max_images"] == 1


def test_failure_after_the_first_token_is_the_last_event(
    make_client: MakeClient, tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, calls = make_client(), 0
    step = tiny_model.captioner.decoder.step

    def fail(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError("the model is broken")
        return step(*arguments, **named)

    monkeypatch.setattr(tiny_model.captioner.decoder, "step", fail)
    *_, (last, problem) = stream(client, "strategy=greedy&min_tokens=12")
    assert last == "error"
    assert problem["type"] == "urn:semicap:problem:captioning-failed"
    assert "RuntimeError" not in problem["detail"]


def test_client_that_leaves_frees_its_place_at_once(
    make_client: MakeClient, tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    step, go_on = tiny_model.captioner.decoder.step, threading.Event()
    sent: list[Any] = []

    def held(*arguments: Any, **named: Any) -> Any:
        assert go_on.wait(30)
        return step(*arguments, **named)

    async def ask_and_leave() -> None:
        leaves, requests = asyncio.Event(), [{"type": "http.request", "body": CAT, "more_body": False}]

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            leaves.set()

        scope = captions_scope(client) | {
            "path": "/v1/captions/stream",
            "query_string": b"strategy=greedy&min_tokens=12",
        }
        await asyncio.wait_for(client.app(scope, receive, send), 30)

    monkeypatch.setattr(tiny_model.captioner.decoder, "step", held)
    assert client.portal is not None
    client.portal.call(ask_and_leave)
    assert parts_of(client).engine.depth == 0
    go_on.set()
    assert sent[0]["status"] == 200
    assert b"result" not in b"".join(message.get("body", b"") for message in sent)
    assert 'semicap_images_total{outcome="cancelled"} 1.0' in client.get("/metrics").text
