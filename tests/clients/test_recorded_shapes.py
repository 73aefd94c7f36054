"""Requests as programs without a client library send them: Home Assistant's LLM Vision, Altbot, WordPress."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.clients import CAT, COFFEE, data_url, encoded

CHAT = "/v1/chat/completions"


def content(*photos: bytes) -> list[dict[str, Any]]:
    """A message of LLM Vision: each image behind its name, the prompt at the end."""
    parts: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, start=1):
        parts.append({"type": "text", "text": f"Image {number}:"})
        parts.append({"type": "image_url", "image_url": {"url": data_url(photo)}})
    return [*parts, {"type": "text", "text": "What has happened? Keep it short."}]


def said(client: TestClient, **body: Any) -> str:
    answer = client.post(CHAT, json={"model": "gpt-4o-mini", **body})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_llm_vision_is_set_up_by_a_greeting_and_keeps_no_excuse_as_a_caption(client: TestClient) -> None:
    hello = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    answer = client.post(CHAT, json=hello)
    (choice,) = answer.json()["choices"]
    assert (answer.status_code, choice["message"]["content"], choice["finish_reason"]) == (200, "", "stop")
    assert "captions photos" in choice["message"]["refusal"]
    lines = client.post(CHAT, json={**hello, "stream": True}).text.split("\n\n")
    first, last, done, _ = [line.removeprefix("data: ") for line in lines]
    assert json.loads(first)["choices"][0]["delta"]["refusal"] == choice["message"]["refusal"]
    assert (json.loads(last)["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_llm_vision_gets_a_line_for_each_camera(client: TestClient) -> None:
    system = {"role": "system", "content": "Your task is to analyze images."}
    settings = {"max_completion_tokens": 100, "temperature": 0.5, "top_p": 0.9}

    def seen(*photos: bytes) -> list[str]:
        messages = [system, {"role": "user", "content": content(*photos)}]
        return said(client, messages=messages, **settings).split("\n")

    assert seen(CAT, COFFEE) == seen(CAT) + seen(COFFEE)


def test_llm_vision_gets_a_line_for_each_camera_over_ollama_too(client: TestClient) -> None:
    def seen(*photos: bytes) -> list[str]:
        images = [{"role": "user", "content": "Image:", "images": [encoded(photo)]} for photo in photos]
        messages = [*images, {"role": "user", "content": "What has happened?"}]
        body = {"model": "gemma3", "messages": messages, "stream": False, "options": {"num_predict": 100}}
        text: str = client.post("/api/chat", json=body).json()["message"]["content"]
        return text.split("\n")

    assert seen(CAT, COFFEE) == seen(CAT) + seen(COFFEE)


def test_altbot_finds_the_service_healthy_and_gets_a_description(client: TestClient) -> None:
    assert client.get("/health").status_code == 200
    parts = [
        {"type": "text", "text": "Write alt text."},
        {"type": "image_url", "image_url": {"url": data_url(CAT).replace("image/jpeg", "image/jpg")}},
    ]
    assert said(client, messages=[{"role": "user", "content": parts}]).endswith(".")


@pytest.mark.parametrize("max_chars", [125, 40])
def test_wordpress_gets_one_plain_string_of_the_length_it_wants(client: TestClient, max_chars: int) -> None:
    text = said(
        client, messages=[{"role": "user", "content": content(CAT)}], max_chars=max_chars, max_tokens=300
    )
    assert 0 < len(text) <= max_chars
    assert text == text.strip()
    assert not set(text) & set('\n"*#<>')
