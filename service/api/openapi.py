"""What OpenAPI says of requests that FastAPI cannot derive from a signature."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api import examples
from service.api.live import EVENT_STREAM, event_schema
from service.api.responses import problem_responses
from service.api.schemas import MAX_TEXT_CHARS, MAX_TEXTS, JsonCaptionRequest, JsonScoreRequest
from service.errors import (
    BrokenImageError,
    CaptioningFailedError,
    DeadlineExceededError,
    EngineUnavailableError,
    ImageTooLargeError,
    ImageUrlError,
    InvalidEmbeddingError,
    InvalidOptionError,
    InvalidRequestError,
    ModelNotFoundError,
    NoImageError,
    QueueFullError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServiceError,
    StoppingError,
    TooManyImagesError,
    UnknownOptionError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
    UrlFetchingDisabledError,
)
from service.image_formats import MEDIA_TYPES
from service.option_reading import options_schema

TAGS = [
    {"name": "captions", "description": "Photos in, scored captions out."},
    {"name": "jobs", "description": "Long work over many photos: datasets, bulk captioning."},
    {"name": "models", "description": "The model versions that answer; OpenAI's list as well."},
    {"name": "openai", "description": "For clients of OpenAI's chat completions."},
    {"name": "ollama", "description": "For clients of Ollama."},
    {"name": "photoprism", "description": "For PhotoPrism's own Vision API."},
    {"name": "huggingface", "description": "For clients of Hugging Face's image-to-text task."},
    {"name": "operations", "description": "Health and metrics."},
]

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def _json_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    schema["properties"]["images"]["items"] = schema.pop("$defs")["JsonImage"]
    return schema


def _captions_json_schema(*, max_images: int | None) -> dict[str, Any]:
    schema = _json_schema(JsonCaptionRequest)
    schema["properties"]["images"] |= _at_most(max_images)
    schema["properties"]["options"] = {
        "type": "object",
        "properties": options_schema(),
        "additionalProperties": False,
        "description": "Caption options.",
    }
    return schema


def _form_schema(*, max_images: int | None) -> dict[str, Any]:
    images = {"type": "array", "items": _BINARY, "minItems": 1, "description": "Image files."}
    images |= _at_most(max_images)
    return {
        "type": "object",
        "properties": {"image": images, **options_schema()},
        "required": ["image"],
        "additionalProperties": False,
    }


def _scores_form_schema() -> dict[str, Any]:
    images = {"type": "array", "items": _BINARY, "minItems": 1, "description": "One or more image files."}
    text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARS}
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_TEXTS}
    return {
        "type": "object",
        "properties": {"image": images, "text": texts},
        "required": ["image", "text"],
        "additionalProperties": False,
    }


def _at_most(max_images: int | None) -> dict[str, int]:
    return {} if max_images is None else {"maxItems": max_images}


def _captions_body(*, max_images: int | None = None) -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _form_schema(max_images=max_images)},
            "application/json": {"schema": _captions_json_schema(max_images=max_images)},
            **{media_type: {"schema": _BINARY} for media_type in (*MEDIA_TYPES, "application/octet-stream")},
        },
    }


CAPTIONS_BODY = _captions_body()
STREAM_BODY = _captions_body(max_images=1)

CAPTIONS_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": f"{schema['description']} The body's own value wins.",
        "schema": schema,
    }
    for name, schema in options_schema().items()
]

CAPTIONS_ERRORS: tuple[type[ServiceError], ...] = (
    ModelNotFoundError,
    RequestTimeoutError,
    RequestTooLargeError,
    ImageTooLargeError,
    TooManyImagesError,
    UnsupportedMediaTypeError,
    UnsupportedImageError,
    BrokenImageError,
    NoImageError,
    InvalidRequestError,
    InvalidOptionError,
    UnknownOptionError,
    InvalidEmbeddingError,
    UrlFetchingDisabledError,
    ImageUrlError,
    QueueFullError,
    CaptioningFailedError,
    ServiceError,
    StoppingError,
    EngineUnavailableError,
    DeadlineExceededError,
)

CAPTIONS_RESPONSES: dict[int | str, dict[str, Any]] = problem_responses(*CAPTIONS_ERRORS)
CAPTIONS_RESPONSES[413]["content"]["application/problem+json"]["example"] = examples.IMAGE_TOO_LARGE


STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: response for status, response in CAPTIONS_RESPONSES.items() if status != 200},
    200: {
        "description": "Events `token` or `hypothesis`, then `result` or `error`.",
        "content": {EVENT_STREAM: {"itemSchema": event_schema("token", "hypothesis", "result", "error")}},
    },
}

SCORES_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": _json_schema(JsonScoreRequest)},
        "multipart/form-data": {"schema": _scores_form_schema()},
    },
}

SCORES_RESPONSES = CAPTIONS_RESPONSES | {200: {}}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The schema of an application, without FastAPI's own validation error, which no route answers with."""
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS
    )
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    examples.add_examples(schema)
    return schema
