"""Request bodies to images and the texts that are compared with them: multipart and JSON."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from service.api.inputs import (
    InputLimits,
    check_count,
    content_type_of,
    form_images,
    json_images,
    parsed_form,
    parsed_json,
    split_form,
)
from service.api.schemas import MAX_TEXT_CHARS, MAX_TEXTS, JsonScoreRequest
from service.captioning import ImageInput
from service.errors import InvalidRequestError, UnsupportedMediaTypeError

TEXT_FIELD = "text"


@dataclass(frozen=True)
class ScoreRequest:
    """The images and texts of a request, whatever form it came in."""

    images: list[ImageInput]
    texts: list[str]


async def read_score_request(request: Request, limits: InputLimits) -> ScoreRequest:
    """Reads the body in the form that its content type says.

    Raises:
        ServiceError: wrong content type, no or too many images or texts, broken JSON or form.
    """
    content_type = content_type_of(request)
    if content_type == "application/json":
        parsed = await parsed_json(request, JsonScoreRequest)
        return ScoreRequest(await json_images(request, parsed.images, limits), parsed.texts)
    if content_type == "multipart/form-data":
        return await _read_form(request, limits)
    raise UnsupportedMediaTypeError(
        f"the content type is {reprlib.repr(content_type)}; it may be application/json or multipart/form-data"
    )


async def _read_form(request: Request, limits: InputLimits) -> ScoreRequest:
    async with parsed_form(request, limits, max_fields=MAX_TEXTS + 1) as form:
        uploads, fields = split_form(form, (TEXT_FIELD,))
        check_count(len(uploads), limits)
        texts = [text for _, text in fields]
        _check_texts(texts)
        return ScoreRequest(await form_images(uploads, limits), texts)


def _check_texts(texts: Sequence[str]) -> None:
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidRequestError(
            f"the form has {len(texts)} fields {TEXT_FIELD!r}; it may have 1 to {MAX_TEXTS}"
        )
    for text in texts:
        if not 1 <= len(text) <= MAX_TEXT_CHARS:
            raise InvalidRequestError(f"a text has {len(text)} characters; it may have 1 to {MAX_TEXT_CHARS}")
