"""Problem documents as HTTP responses, and how OpenAPI declares them."""

from typing import Any

from starlette.responses import Response

from service.errors import ServiceError
from service.problems import PROBLEM_MEDIA_TYPE, headers_of, problem_of

PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def problem_response(error: ServiceError) -> Response:
    """The response that reports an error."""
    return Response(
        problem_of(error).model_dump_json(),
        status_code=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers_of(error),
    )


def problem_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the errors that a route can answer with."""
    by_status: dict[int | str, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(f"{error.title} (`{error.type}`)")
    return {
        status: {"description": "; ".join(texts), "content": {PROBLEM_MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}}
        for status, texts in by_status.items()
    }
