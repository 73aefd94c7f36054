"""OpenAI's chat completions: requests to images and options, captions to completions and chunks."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from service.api.adapters.client_options import client_options
from service.api.adapters.error_shapes import openai_error
from service.api.adapters.replies import Piece, Reply, ReplyStream
from service.api.live import sent_event
from service.api.schemas import JsonImage
from service.engine.options import CaptionOptions
from service.errors import ServiceError
from service.problems import problem_of

MAX_CHOICES = 16

_REFUSAL = "No message has an image; this service captions photos and answers nothing else."


class _Open(BaseModel):
    """What the protocol has and this service does not read is let through."""

    model_config = ConfigDict(extra="allow")


class ImageUrl(_Open):
    url: str = Field(description="A data URL; another address only where URL fetching is enabled.")


class ContentPart(_Open):
    type: str = Field(description="`image_url` is read, everything else ignored.")
    image_url: ImageUrl | str | None = None


class ChatMessage(_Open):
    role: str
    content: str | list[ContentPart] | None = None


class StreamOptions(_Open):
    include_usage: StrictBool | None = None


class ChatRequest(_Open):
    """A chat completion request. Prompts are ignored; fields named like caption options are honoured."""

    model: str = Field("", description="A name that is not one of ours is answered by the active model.")
    messages: list[ChatMessage] = Field(
        min_length=1, description="The images of the last message that has any are captioned."
    )
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None

    @property
    def images(self) -> list[JsonImage]:
        """Of the last message that has any; empty where there is only text."""
        for message in reversed(self.messages):
            parts = message.content if isinstance(message.content, list) else []
            addresses = [_address(part.image_url) for part in parts if part.image_url]
            if addresses:
                return [JsonImage.at(address) for address in addresses]
        return []

    @property
    def options(self) -> CaptionOptions:
        """Caption options among the fields; raises InvalidOptionError."""
        given: dict[str, Any] = dict(self.model_extra or {})
        if self.n is not None:
            given["num_captions"] = self.n
            given.setdefault("num_beams", max(self.n, CaptionOptions.num_beams))
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return client_options(given)

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = Field(None, description="Why there is no caption: no message has an image.")


class CompletionChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Positions made from the images; a prompt is not read.")
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A chat completion whose content is the caption, or one caption a line for several images."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = Field(description="The model version that answered.")
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str


def completion_of(reply: Reply, *, model: str) -> ChatCompletion:
    """The whole answer."""
    return ChatCompletion(
        **_head(model),
        choices=[
            CompletionChoice(
                index=index,
                message=AssistantMessage(content=choice.text),
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(reply.choices)
        ],
        usage=_usage(reply),
    )


def refusal(*, model: str) -> ChatCompletion:
    """The answer to a chat without an image.

    Not an error: LLM Vision of Home Assistant says "Hi" before it takes a service, and asks for titles later.
    And no words in `content`, which programs keep as a caption.
    """
    message = AssistantMessage(content="", refusal=_REFUSAL)
    return ChatCompletion(
        **_head(model),
        choices=[CompletionChoice(index=0, message=message, finish_reason="stop")],
        usage=Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )


async def refusal_chunks(*, model: str) -> AsyncIterator[str]:
    """The same as server-sent events."""
    head = {**_head(model), "object": "chat.completion.chunk"}
    said = {"role": "assistant", "content": "", "refusal": _REFUSAL}
    yield sent_event({**head, "choices": [_delta(0, said, None)]})
    yield sent_event({**head, "choices": [_delta(0, {}, "stop")]})
    yield sent_event("[DONE]")


async def completion_chunks(stream: ReplyStream, *, model: str, wants_usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events, the last of them [DONE]."""
    head = {**_head(model), "object": "chat.completion.chunk"}
    started: set[int] = set()
    try:
        async for event in stream.events:
            for choices in _deltas(event, started):
                yield sent_event({**head, "choices": choices})
            if isinstance(event, Reply) and wants_usage:
                yield sent_event({**head, "choices": [], "usage": _usage(event).model_dump()})
    except ServiceError as error:
        yield sent_event(openai_error(problem_of(error).model_dump()))
    yield sent_event("[DONE]")


def _deltas(event: Piece | Reply, started: set[int]) -> Sequence[list[dict[str, Any]]]:
    if isinstance(event, Reply):
        return [[_delta(index, {}, one.finish_reason)] for index, one in enumerate(event.choices)]
    first = {} if event.choice in started else {"role": "assistant"}
    started.add(event.choice)
    return [[_delta(event.choice, {**first, "content": event.text}, None)]]


def _delta(index: int, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _head(model: str) -> dict[str, Any]:
    version = model.rpartition(":")[2]
    return {
        "id": f"chatcmpl-{uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{version}",
    }


def _usage(reply: Reply) -> Usage:
    read, written = reply.prompt_tokens, reply.completion_tokens
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _address(image_url: ImageUrl | str) -> str:
    return image_url if isinstance(image_url, str) else image_url.url
