"""Request bodies of PhotoPrism's documented shapes: its Ollama engine and its own Vision API."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from service.registry import ServedModel
from tests.service.clients import CAT, COFFEE, data_url, encoded

OLLAMA_BODY: dict[str, Any] = {
    "id": "1d4a9fcd-4c43-4dd0-9db8-8a2cf0e1e0aa",
    "model": "gemma3:latest",
    "system": "You are a PhotoPrism vision model. Output concise JSON that matches the schema.",
    "prompt": "Create a caption with exactly one sentence in the active voice. Begin with the main subject.",
    "suffix": "",
    "options": {"temperature": 0.1, "top_p": 0.9, "stop": ["\n\n"]},
    "stream": False,
    "images": [encoded()],
}
VISION_BODY: dict[str, Any] = {
    "id": "3487da77-246e-4b4c-9437-67507177bcd7",
    "model": "kosmos-2",
    "version": "latest",
    "suffix": "",
    "stream": False,
    "images": [data_url()],
}


def test_its_ollama_engine_reads_one_clean_sentence(client: TestClient) -> None:
    answer = client.post("/api/generate", json=OLLAMA_BODY)
    assert answer.status_code == 200, answer.text
    text = answer.json()["response"]
    assert text[0] == text[0].upper()
    assert text.endswith(".")
    assert "\n" not in text
    assert answer.json()["model"]


def test_its_vision_api_gets_a_caption_result(client: TestClient, tiny_model: ServedModel) -> None:
    answer = client.post("/api/v1/vision/caption", json=VISION_BODY)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["id"], body["code"]) == (VISION_BODY["id"], 200)
    model = {"type": "caption", "name": "tiny", "version": tiny_model.version, "resolution": 32}
    assert body["model"] == model
    assert body["result"]["caption"]["text"].endswith(".")


def test_both_say_the_same(client: TestClient) -> None:
    ollama = client.post("/api/generate", json=OLLAMA_BODY).json()["response"]
    vision = client.post("/api/v1/vision/caption", json=VISION_BODY).json()
    assert vision["result"]["caption"]["text"] == ollama


def test_of_several_views_the_best_described_one_answers(client: TestClient) -> None:
    def caption(*photos: bytes) -> str:
        body = VISION_BODY | {"images": [data_url(photo) for photo in photos]}
        text: str = client.post("/api/v1/vision/caption", json=body).json()["result"]["caption"]["text"]
        return text

    assert caption(CAT, COFFEE) in (caption(CAT), caption(COFFEE))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"images": []}, 400),
        ({"images": [data_url(b"text")]}, 400),
        ({"images": None, "url": "https://example.org/a.jpg"}, 400),
        ({"model": "tiny:0"}, 404),
    ],
)
def test_errors_have_its_shape(client: TestClient, change: dict[str, Any], status: int) -> None:
    answer = client.post("/api/v1/vision/caption", json=VISION_BODY | change)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == status
    assert answer.json()["error"]
