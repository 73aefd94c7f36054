"""What OpenAPI says of requests that FastAPI cannot derive from a signature."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api import examples
from service.api.responses import problem_responses
from service.api.schemas import JsonCaptionRequest
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
    {"name": "models", "description": "The model versions that answer."},
    {"name": "operations", "description": "Health and metrics."},
]

_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def _json_schema() -> dict[str, Any]:
    schema = JsonCaptionRequest.model_json_schema(ref_template="#/$defs/{model}")
    image = schema.pop("$defs")["JsonImage"]
    schema["properties"]["images"]["items"] = image
    schema["properties"]["options"] = {
        "type": "object",
        "properties": options_schema(),
        "additionalProperties": False,
        "description": "Caption options.",
    }
    return schema


def _form_schema() -> dict[str, Any]:
    images = {"type": "array", "items": _BINARY, "minItems": 1, "description": "One or more image files."}
    return {
        "type": "object",
        "properties": {"image": images, **options_schema()},
        "required": ["image"],
        "additionalProperties": False,
    }


CAPTIONS_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _form_schema()},
        "application/json": {"schema": _json_schema(), "example": examples.JSON_REQUEST},
        **{media_type: {"schema": _BINARY} for media_type in (*MEDIA_TYPES, "application/octet-stream")},
    },
}

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

CAPTIONS_RESPONSES: dict[int | str, dict[str, Any]] = problem_responses(
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
CAPTIONS_RESPONSES[413]["content"]["application/problem+json"]["example"] = examples.IMAGE_TOO_LARGE
CAPTIONS_RESPONSES[200] = {"content": {"application/json": {"example": examples.captions_answer()}}}


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
    return schema
