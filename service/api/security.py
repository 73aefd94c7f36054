"""What OpenAPI says of API keys: which operations take one, and what they answer without."""

from typing import Any

from service.api.access import is_open
from service.api.adapters.documented import error_responses
from service.api.adapters.error_shapes import shape_below
from service.api.responses import problem_responses
from service.errors import (
    ForeignPageError,
    MissingScopeError,
    NotAuthenticatedError,
    RateLimitedError,
    UnknownHostError,
)

SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of `semicap keys create`."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}

_REFUSALS = (NotAuthenticatedError, MissingScopeError, ForeignPageError, UnknownHostError, RateLimitedError)
_WITH_A_KEY: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
_OR_WITHOUT: list[dict[str, list[str]]] = [{}]


def add_security(schema: dict[str, Any], *, open_paths: tuple[str, ...]) -> None:
    """Adds the key schemes and refusals to the OpenAPI schema of a service that has no keys (yet)."""
    schema.setdefault("components", {})["securitySchemes"] = SCHEMES
    for path, operations in schema["paths"].items():
        if not is_open(path, open_paths):
            for operation in operations.values():
                operation["security"] = _WITH_A_KEY + _OR_WITHOUT
                _add_refusals(operation["responses"], path=path)


def with_keys_required(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema for a service that has keys: nothing guarded can be called without one."""
    paths = {
        path: {
            method: operation | {"security": _WITH_A_KEY} if "security" in operation else operation
            for method, operation in operations.items()
        }
        for path, operations in schema["paths"].items()
    }
    return schema | {"paths": paths}


def _add_refusals(responses: dict[str, Any], *, path: str) -> None:
    shape = shape_below(path)
    refusals = error_responses(shape, *_REFUSALS) if shape else problem_responses(*_REFUSALS)
    for status, refusal in refusals.items():
        known = responses.get(str(status))
        if known is None:
            responses[str(status)] = refusal
        elif known["description"] != refusal["description"]:
            known["description"] = f"{known['description']}; {refusal['description']}"
