"""Errors as RFC 9457 problem documents."""

import math

from pydantic import BaseModel, ConfigDict, Field

from service.errors import NotAuthenticatedError, ServiceError

PROBLEM_MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:semicap:problem:"


class Problem(BaseModel):
    """An RFC 9457 problem document; some types carry further members."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="Stable identifier of this kind of problem.")
    title: str = Field(description="The kind of problem in a few words.")
    status: int = Field(description="HTTP status that goes with it.")
    detail: str = Field(description="What was wrong this time, the value, and the limit or the remedy.")


def problem_of(error: ServiceError) -> Problem:
    """The document that a caller gets for an error."""
    return Problem(
        type=TYPE_PREFIX + error.type,
        title=error.title,
        status=error.status,
        detail=in_unicode(error.detail),
        **{
            name: in_unicode(value) if isinstance(value, str) else value
            for name, value in error.extensions.items()
        },
    )


def in_unicode(text: str) -> str:
    """The text, with halves of characters (lone surrogates, which JSON can hold) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def headers_of(error: ServiceError) -> dict[str, str]:
    """Response headers that go with an error."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="semicap"'
    return headers
