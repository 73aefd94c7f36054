"""Request bodies to images and options: multipart, raw image, JSON."""

import base64
import binascii
import reprlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.api.schemas import JsonCaptionRequest, JsonImage
from service.captioning import ImageInput
from service.engine.options import CaptionOptions
from service.errors import (
    BrokenImageError,
    InvalidOptionError,
    InvalidRequestError,
    NoImageError,
    ServiceError,
    TooManyImagesError,
    UnknownOptionError,
    UnsupportedMediaTypeError,
)
from service.fetch import ImageFetcher, fetch_each
from service.images import too_many_bytes
from service.option_reading import OPTION_NAMES, options_from_json, options_from_text, unknown_name

IMAGE_FIELD = "image"
Body = TypeVar("Body", bound=BaseModel)

_MAX_FIELD_BYTES = 16 * 1024


@dataclass(frozen=True)
class InputLimits:
    """What one request may hold, and what fetches the URLs in it, where that is on."""

    max_images: int
    max_image_bytes: int
    fetcher: ImageFetcher | None = None


@dataclass(frozen=True)
class CaptionRequest:
    """The images and options of a request, whatever form it came in."""

    images: list[ImageInput]
    options: CaptionOptions


async def read_caption_request(request: Request, limits: InputLimits) -> CaptionRequest:
    """Reads the body in the form that its content type says.

    Raises:
        ServiceError: wrong content type, no or too many images, wrong option, broken JSON or form.
    """
    content_type = content_type_of(request)
    query = _once_each(request.query_params.multi_items())
    if content_type == "multipart/form-data":
        return await _read_form(request, query, limits)
    if content_type == "application/json":
        return await _read_json(request, query, limits)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return CaptionRequest([posted_image(await request.body(), limits)], options_from_text(query))
    if not content_type and not await request.body():
        raise NoImageError("the request has no body; post an image, a form with `image`, or JSON")
    raise UnsupportedMediaTypeError(
        f"the content type is {reprlib.repr(content_type)}; "
        "it may be multipart/form-data, application/json or image/*"
    )


def only_image(images: Sequence[ImageInput]) -> ImageInput:
    """The image of a request that takes one; raises TooManyImagesError."""
    if len(images) > 1:
        raise TooManyImagesError(
            f"the request has {len(images)} images; a stream is about one: send several requests",
            max_images=1,
        )
    return images[0]


def content_type_of(request: Request) -> str:
    """The media type of the body, lower case and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def parsed_form(request: Request, limits: InputLimits, *, max_fields: int) -> AsyncIterator[FormData]:
    """A form with no more files and fields than allowed.

    Raises:
        TooManyImagesError, InvalidRequestError: it has more, or cannot be parsed.
    """
    try:
        form = await request.form(
            max_files=limits.max_images + 1, max_fields=max_fields, max_part_size=_MAX_FIELD_BYTES
        )
    except HTTPException as error:  # starlette's answer to a form that it cannot parse
        if error.detail.startswith("Too many files"):
            raise _too_many_images(limits) from error
        raise InvalidRequestError(f"the form cannot be read: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


async def form_images(uploads: Sequence[UploadFile], limits: InputLimits) -> list[ImageInput]:
    """The files of a form; raises NoImageError and TooManyImagesError."""
    check_count(len(uploads), limits)
    return [await _uploaded(upload, limits) for upload in uploads]


async def json_images(request: Request, images: Sequence[JsonImage], limits: InputLimits) -> list[ImageInput]:
    """The images of a JSON body, fetched where they are URLs; raises NoImageError and TooManyImagesError."""
    check_count(len(images), limits)
    fetched = await fetch_each([one.url for one in images], limits.fetcher, request.state.take_body_bytes)
    pairs = list(zip(images, fetched, strict=True))
    return await run_in_threadpool(lambda: [_json_input(image, got, limits) for image, got in pairs])


async def _read_form(request: Request, query: dict[str, str], limits: InputLimits) -> CaptionRequest:
    async with parsed_form(request, limits, max_fields=2 * len(OPTION_NAMES)) as form:
        uploads, texts = split_form(form, OPTION_NAMES)
        check_count(len(uploads), limits)
        options = options_from_text(query | _once_each(texts))
        return CaptionRequest(await form_images(uploads, limits), options)


def split_form(form: FormData, names: tuple[str, ...]) -> tuple[list[UploadFile], list[tuple[str, str]]]:
    """Files and text fields of a form.

    Args:
        names: of the text fields that there are.

    Raises:
        InvalidRequestError, UnknownOptionError: a field that is not what its name says or not known.
    """
    uploads = [
        value for _, value in form.multi_items() if isinstance(value, UploadFile) and not _is_blank(value)
    ]
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    for name, value in form.multi_items():
        if name == IMAGE_FIELD and isinstance(value, str):
            raise InvalidRequestError(
                f"the form field {IMAGE_FIELD!r} is text; it must be a file with a file name"
            )
        if name != IMAGE_FIELD and isinstance(value, UploadFile):
            raise InvalidRequestError(
                f"the file is in the form field {reprlib.repr(name)}; put it into 'image'"
            )
        if name not in (IMAGE_FIELD, *names):
            detail, extensions = unknown_name(name, (IMAGE_FIELD, *names), kind="form field")
            raise UnknownOptionError(detail, option=name[:100], **extensions)
    return uploads, texts


def _is_blank(upload: UploadFile) -> bool:
    """What a browser sends for a file field in which nothing was picked."""
    return not upload.filename and not upload.size


async def _uploaded(upload: UploadFile, limits: InputLimits) -> ImageInput:
    if (upload.size or 0) > limits.max_image_bytes:
        return ImageInput(too_many_bytes(upload.size or 0, limits.max_image_bytes), upload.filename)
    return ImageInput(await upload.read(), upload.filename)


async def _read_json(request: Request, query: dict[str, str], limits: InputLimits) -> CaptionRequest:
    parsed = await parsed_json(request, JsonCaptionRequest)
    check_count(len(parsed.images), limits)
    options = options_from_json(parsed.options, query=query)
    return CaptionRequest(await json_images(request, parsed.images, limits), options)


async def read_json(request: Request, limits: InputLimits, *, model: type[Body]) -> Body:
    """A body that has to be JSON, whatever its content type says: many clients send none."""
    return await parsed_json(request, model)


async def parsed_json(request: Request, model: type[Body]) -> Body:
    """The JSON body as a model; raises InvalidRequestError with the place of the first mistake."""
    body = await request.body()
    try:
        return await run_in_threadpool(model.model_validate_json, body)
    except ValidationError as error:
        raise _invalid_json(error, model) from error


def _invalid_json(error: ValidationError, model: type[BaseModel]) -> ServiceError:
    errors = error.errors(include_url=False, include_input=False)
    for one in errors:  # first: a mistyped name also shows as a missing one
        if one["type"] == "extra_forbidden":
            known = (*model.model_fields, *JsonImage.model_fields)
            detail, extensions = unknown_name(str(one["loc"][-1]), known, kind="JSON field")
            return InvalidRequestError(detail, **extensions)
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])
    message = f"{where}: {first['msg']}" if where else first["msg"]
    return InvalidRequestError(f"the JSON body is not what is asked for here: {message}")


def _json_input(image: JsonImage, fetched: bytes | ServiceError | None, limits: InputLimits) -> ImageInput:
    if image.embedding is not None:
        return ImageInput(tuple(image.embedding), image.file_name)
    if fetched is not None:
        return ImageInput(fetched, image.file_name)
    return ImageInput(_from_base64(image.data or "", limits), image.file_name)


def _from_base64(text: str, limits: InputLimits) -> bytes | ServiceError:
    head, comma, payload = text.partition(",")
    encoded = payload if comma and head.startswith("data:") else text
    if len(encoded) // 4 * 3 > limits.max_image_bytes + 3:
        return too_many_bytes(len(encoded) // 4 * 3, limits.max_image_bytes)
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        return BrokenImageError("`data` is not base64; encode the image file's bytes")


def posted_image(data: bytes, limits: InputLimits) -> ImageInput:
    """The image that is a body; raises NoImageError."""
    if not data:
        raise NoImageError("the request body is empty; post the bytes of an image")
    return ImageInput(
        too_many_bytes(len(data), limits.max_image_bytes) if len(data) > limits.max_image_bytes else data
    )


def check_count(count: int, limits: InputLimits) -> None:
    """Raises NoImageError or TooManyImagesError."""
    if count == 0:
        raise NoImageError(f"the request has no image; put one or more files into the field {IMAGE_FIELD!r}")
    if count > limits.max_images:
        raise _too_many_images(limits)


def _too_many_images(limits: InputLimits) -> TooManyImagesError:
    return TooManyImagesError(
        f"the request has more than {limits.max_images} images; send several requests",
        max_images=limits.max_images,
    )


def _once_each(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    pairs = list(items)
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise InvalidOptionError(
                f"{reprlib.repr(name)} is given {times} times; give it once", option=name[:100]
            )
    return dict(pairs)
