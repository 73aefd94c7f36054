"""What OpenAPI says of the adapters' requests and errors."""

from typing import Any

from pydantic import BaseModel

from service.api.adapters.error_shapes import Shape, status_of
from service.api.openapi import CAPTIONS_ERRORS
from service.errors import ServiceError
from service.problems import problem_of


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads this model itself, after it has reserved a place."""
    schema = inlined(model.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its definitions put where they are used; none of ours refers to itself."""
    definitions = schema.get("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(definitions[value["$ref"].rpartition("/")[2]])
            return {name: resolve(part) for name, part in value.items() if name != "$defs"}
        return [resolve(part) for part in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def error_responses(shape: Shape, *errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for an adapter's errors, in its own shape; by default all there are."""
    titles: dict[int, list[str]] = {}
    for error in errors or CAPTIONS_ERRORS:
        titles.setdefault(status_of(error.status), []).append(error.title)
    example = problem_of(ServiceError("what was wrong")).model_dump()
    schema = _schema_of(shape(example))
    return {
        status: {"description": "; ".join(texts), "content": {"application/json": {"schema": schema}}}
        for status, texts in titles.items()
    }


def streamed_response(media_type: str, item: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for an answer that is JSON, or comes in items where the request asks for it."""
    return {200: {"content": {media_type: {"itemSchema": item}}}}


def _schema_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = {name: _schema_of(part) for name, part in value.items()}
        return {"type": "object", "properties": parts, "required": list(parts)}
    if value is None:
        return {"type": ["string", "null"]}
    return {"type": "integer" if isinstance(value, int) else "string"}
