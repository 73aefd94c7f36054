"""The ollama package against /api."""

from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from service import release
from service.registry import ServedModel
from tests.service.clients import CAT, COFFEE


@pytest.fixture
def client(address: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=address) as client:
        yield client


def generate(client: ollama.Client, *photos: bytes, **fields: Any) -> str:
    asked = {"model": "semicap", "prompt": "Describe it.", **fields}
    text: str = client.generate(images=list(photos), **asked).response
    return text


def test_generate_answers_with_a_caption_and_counts(client: ollama.Client, tiny_model: ServedModel) -> None:
    answer = client.generate(model=tiny_model.id, prompt="Describe it.", images=[CAT])
    assert (answer.response or "").endswith(".")
    assert (answer.done, answer.model) == (True, tiny_model.id)
    assert answer.done_reason in ("stop", "length")
    assert answer.prompt_eval_count == 3
    assert answer.eval_count is not None
    assert answer.eval_count > 0
    assert answer.eval_duration is not None
    assert answer.total_duration is not None
    assert 0 < answer.eval_duration < answer.total_duration
    assert answer.created_at is not None


@pytest.mark.parametrize("options", [{}, {"strategy": "greedy"}, {"strategy": "sample", "seed": 3}])
def test_stream_adds_up_to_the_whole_answer(client: ollama.Client, options: dict[str, Any]) -> None:
    parts = list(client.generate(model="semicap", prompt="?", images=[CAT], stream=True, options=options))
    assert "".join(part.response or "" for part in parts) == generate(client, CAT, options=options)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count is not None
    assert len(parts) > 2


def test_chat_says_the_same_as_generate(client: ollama.Client) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "And this?", "images": [COFFEE]},
        {"role": "assistant", "content": "A cup."},
        {"role": "user", "content": "What is it?", "images": [CAT]},
    ]
    whole = client.chat(model="semicap", messages=messages)
    assert whole.message.role == "assistant"
    assert whole.message.content == generate(client, CAT)
    streamed = list(client.chat(model="semicap", messages=messages, stream=True))
    assert "".join(part.message.content or "" for part in streamed) == whole.message.content
    assert streamed[-1].done


def test_several_images_are_a_line_each(client: ollama.Client) -> None:
    assert generate(client, CAT, COFFEE).split("\n") == [generate(client, CAT), generate(client, COFFEE)]


def test_options_of_ollama_and_ours_are_taken(client: ollama.Client) -> None:
    usual = {"temperature": 0.0, "top_k": 40, "num_ctx": 4096, "seed": -1, "num_predict": -1, "stop": ["x"]}
    assert generate(client, CAT, options=usual) == generate(client, CAT)
    short = client.generate(model="llava", prompt="", images=[CAT], options={"num_predict": 2})
    assert short.eval_count == 2
    assert len(generate(client, CAT, options={"max_chars": 10, "strategy": "greedy"})) <= 10


def test_request_without_prompt_and_image_only_loads(client: ollama.Client) -> None:
    answer = client.generate(model="semicap")
    assert (answer.done_reason, answer.response) == ("load", "")
    assert client.chat(model="semicap", messages=[]).done_reason == "load"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"prompt": "Hello"}, 400),
        ({"images": [b"text"]}, 400),
        ({"images": [CAT], "options": {"num_beams": "many"}}, 400),
        ({"images": [CAT], "model": "tiny:0"}, 404),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_ollamas_shape(
    client: ollama.Client, fields: dict[str, Any], status: int, stream: bool
) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        list(client.generate(**{"model": "semicap", "stream": stream, **fields}))
    assert raised.value.status_code == status
    assert raised.value.error
    assert "urn:" not in raised.value.error


def test_model_is_listed_and_shown(client: ollama.Client, tiny_model: ServedModel) -> None:
    (model,) = client.list().models
    assert model.model == tiny_model.id
    assert model.size is not None
    assert int(model.size) > 1000
    assert model.details is not None
    assert model.details.quantization_level == "F32"
    shown = client.show(tiny_model.id)
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.basename"] == "tiny"
    assert client.show(f"{tiny_model.name}:latest").license == tiny_model.card
    with pytest.raises(ollama.ResponseError) as raised:
        client.show("llava")
    assert raised.value.status_code == 404


def test_version_is_the_protocols_with_ours_beside_it(client: ollama.Client) -> None:
    answer = client._client.get("/api/version").json()
    assert answer["semicap"] == release()
    assert len(answer["version"].split(".")) == 3
