"""The openai package against /v1/chat/completions and /v1/models."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from service.registry import ServedModel
from tests.service.clients import CAT, COFFEE, data_url


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def message(*photos: bytes, text: str = "Describe this photo in French.") -> Any:
    images = [{"type": "image_url", "image_url": {"url": data_url(photo)}} for photo in photos]
    return {"role": "user", "content": [{"type": "text", "text": text}, *images]}


def test_caption_comes_as_the_assistants_message(client: openai.OpenAI, tiny_model: ServedModel) -> None:
    answer = client.chat.completions.create(model=tiny_model.id, messages=[message(CAT)])
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.content.endswith(".")
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == tiny_model.id
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == 3 + answer.usage.completion_tokens


def test_prompt_model_name_and_unknown_fields_change_nothing(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="semicap", messages=[message(CAT)])
    other = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "system", "content": "Be brief."}, message(CAT, text="Hello")],
        temperature=0,
        max_tokens=4000,
        top_p=0.5,
        presence_penalty=1,
        extra_body={"nonsense": {"a": 1}},
    )
    assert other.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize("extra", [{}, {"strategy": "greedy"}, {"strategy": "sample", "seed": 3}])
def test_stream_adds_up_to_the_whole_answer(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": "semicap", "messages": [message(CAT)], "extra_body": extra}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_images_are_a_line_each(client: openai.OpenAI) -> None:
    def texts(*photos: bytes) -> list[str]:
        answer = client.chat.completions.create(model="semicap", messages=[message(*photos)])
        return (answer.choices[0].message.content or "").split("\n")

    assert texts(CAT, COFFEE) == texts(CAT) + texts(COFFEE)


def test_only_the_last_message_with_images_is_captioned(client: openai.OpenAI) -> None:
    history = [message(COFFEE), {"role": "assistant", "content": "A cup."}, message(CAT)]
    answer = client.chat.completions.create(model="semicap", messages=history)
    alone = client.chat.completions.create(model="semicap", messages=[message(CAT)])
    assert answer.choices[0].message.content == alone.choices[0].message.content


def test_n_gives_alternatives_and_options_are_honoured(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="semicap", messages=[message(CAT)], n=5, extra_body={"max_chars": 12, "final_stop": "remove"}
    )
    texts = [choice.message.content or "" for choice in answer.choices]
    assert len(texts) == 5
    assert all(not text.endswith(".") for text in texts)
    assert all(len(text) <= 12 or " " not in text for text in texts)


@pytest.mark.parametrize(
    ("messages", "extra", "error", "code"),
    [
        ([message(b"text")], {}, openai.BadRequestError, "unsupported_image_format"),
        ([message(CAT, b"text")], {}, openai.BadRequestError, "unsupported_image_format"),
        ([message(CAT)], {"strategy": "best"}, openai.BadRequestError, "invalid_option"),
        ([message(CAT)], {"model": "tiny:0"}, openai.NotFoundError, "model_not_found"),
        ([], {}, openai.BadRequestError, "invalid_request"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openais_shape(
    client: openai.OpenAI,
    messages: Any,
    extra: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    with pytest.raises(error) as raised:
        client.chat.completions.create(model="semicap", messages=messages, stream=stream, extra_body=extra)
    assert raised.value.code == code
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["type"] == "invalid_request_error"
    assert raised.value.body["message"]


def test_models_are_listed_and_found(client: openai.OpenAI, tiny_model: ServedModel) -> None:
    assert tiny_model.id in [model.id for model in client.models.list()]
    assert client.models.retrieve(tiny_model.id).owned_by == "semicap"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
