"""Ollama's API: requests to images and options, captions to its answers, the model to its descriptions."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from service.api.adapters.client_options import client_options
from service.api.adapters.error_shapes import ollama_error
from service.api.adapters.replies import Reply, ReplyStream
from service.api.live import json_line
from service.api.schemas import Base64, JsonImage
from service.engine.options import CaptionOptions
from service.errors import NoImageError, ServiceError
from service.problems import problem_of

PROTOCOL_VERSION = "0.12.0"
"""Version of Ollama whose API these routes follow; clients compare it with what they need."""


class _Open(BaseModel):
    """What the protocol has and this service does not read is let through."""

    model_config = ConfigDict(extra="allow")


class _Request(_Open):
    model: str = Field("", description="A name that is not one of ours is answered by the active model.")
    stream: StrictBool | None = Field(None, description="Lines of JSON; unset means true, as in Ollama.")
    options: dict[str, Any] | None = Field(
        None,
        description="Names of caption options are honoured, `num_predict` is max_tokens; others ignored.",
    )

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False

    @property
    def caption_options(self) -> CaptionOptions:
        """Raises InvalidOptionError."""
        given = dict(self.options or {})
        num_predict = given.get("num_predict")
        if isinstance(num_predict, int) and num_predict > 0:  # 0 and below have meanings of their own
            given.setdefault("max_tokens", num_predict)
        return client_options(given)


class GenerateRequest(_Request):
    """A request to /api/generate. The prompt is ignored."""

    prompt: str | None = None
    images: list[Base64] | None = Field(None, description="Image files.")

    @property
    def asks_to_load(self) -> bool:
        """Whether only loading the model is asked for, as Ollama's clients do it."""
        return not self.images and not self.prompt

    @property
    def json_images(self) -> list[JsonImage]:
        """Raises NoImageError."""
        return _json_images(self.images)


class OllamaMessage(_Open):
    role: str
    content: str | None = None
    images: list[Base64] | None = None


class OllamaChatRequest(_Request):
    """A request to /api/chat. What the messages say is ignored."""

    messages: list[OllamaMessage] = Field(
        default_factory=list,
        description="The images since the last answer are captioned, else of the last message with any.",
    )

    @property
    def asks_to_load(self) -> bool:
        """Whether only loading the model is asked for, as Ollama's clients do it."""
        return not self.messages

    @property
    def json_images(self) -> list[JsonImage]:
        """Raises NoImageError."""
        with_images = [number for number, one in enumerate(self.messages) if one.images]
        answers = [number for number, one in enumerate(self.messages) if one.role == "assistant"]
        # LLM Vision of Home Assistant puts each image into a message of its own.
        last_turn = [number for number in with_images if number > max(answers, default=-1)]
        wanted = last_turn or with_images[-1:]
        return _json_images([image for number in wanted for image in self.messages[number].images or ()])


class _Answer(BaseModel):
    """What both answers end with; durations in nanoseconds."""

    model: str = Field(description="The model version that answered.")
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = Field(None, description="Positions made from the images.")
    prompt_eval_duration: int | None = None
    eval_count: int | None = Field(None, description="Tokens of the captions.")
    eval_duration: int | None = None


class GenerateResponse(_Answer):
    """A caption, or one a line for several images."""

    response: str


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class OllamaChatResponse(_Answer):
    """A message whose content is a caption, or one a line for several images."""

    message: AnswerMessage


MakeAnswer = Callable[..., GenerateResponse | OllamaChatResponse]


def generate_answer(text: str, **fields: Any) -> GenerateResponse:
    return GenerateResponse(response=text, created_at=_now(), **fields)


def chat_answer(text: str, **fields: Any) -> OllamaChatResponse:
    return OllamaChatResponse(message=AnswerMessage(content=text), created_at=_now(), **fields)


def loaded(make: MakeAnswer, *, model: str) -> GenerateResponse | OllamaChatResponse:
    """The answer to a request that only asks to load the model, which is loaded at all times."""
    return make("", model=model, done=True, done_reason="load")


def whole_answer(make: MakeAnswer, reply: Reply, *, model: str) -> GenerateResponse | OllamaChatResponse:
    """The answer to a request that is not streamed."""
    return make(reply.choices[0].text, model=model, **_end(reply))


async def answer_lines(make: MakeAnswer, stream: ReplyStream, *, model: str) -> AsyncIterator[str]:
    """The answer as lines of JSON, the last of them with counts and durations."""
    try:
        async for event in stream.events:
            if isinstance(event, Reply):
                yield _line(make("", model=model, **_end(event)))
            elif event.choice == 0:
                yield _line(make(event.text, model=model, done=False))
    except ServiceError as error:
        yield json_line(ollama_error(problem_of(error).model_dump()))


def _line(answer: GenerateResponse | OllamaChatResponse) -> str:
    return answer.model_dump_json(exclude_none=True) + "\n"


def _end(reply: Reply) -> dict[str, Any]:
    timings = reply.timings
    return {
        "done": True,
        "done_reason": reply.choices[0].finish_reason,
        "total_duration": _ns(reply.total_s),
        "load_duration": 0,
        "prompt_eval_count": reply.prompt_tokens,
        "prompt_eval_duration": _ns(timings.encode_s),
        "eval_count": reply.completion_tokens,
        "eval_duration": _ns(timings.decode_s),
    }


def _json_images(images: list[str] | None) -> list[JsonImage]:
    if not images:
        raise NoImageError("the request has no image; this service captions photos and answers nothing else")
    return [JsonImage.model_validate({"data": image}) for image in images]


def _ns(seconds: float) -> int:
    """At least 1: clients divide by it, and a caption that was known already took no time."""
    return max(1, round(seconds * 1e9))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
