"""Request bodies to images and options: multipart, raw image, JSON."""

import base64
import binascii
import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError
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

_MAX_OPTION_BYTES = 16 * 1024
_JSON_FIELDS = (*JsonCaptionRequest.model_fields, *JsonImage.model_fields)


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
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = _once_each(request.query_params.multi_items())
    if content_type == "multipart/form-data":
        return await _read_form(request, query, limits)
    if content_type == "application/json":
        return await _read_json(request, query, limits)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return CaptionRequest([_posted(await request.body(), limits)], options_from_text(query))
    if not content_type and not await request.body():
        raise NoImageError("the request has no body; post an image, a form with `image`, or JSON")
    raise UnsupportedMediaTypeError(
        f"the content type is {reprlib.repr(content_type)}; "
        "it may be multipart/form-data, application/json or image/*"
    )


async def _read_form(request: Request, query: dict[str, str], limits: InputLimits) -> CaptionRequest:
    try:
        form = await request.form(
            max_files=limits.max_images + 1, max_fields=2 * len(OPTION_NAMES), max_part_size=_MAX_OPTION_BYTES
        )
    except HTTPException as error:  # starlette's answer to a form that it cannot parse
        if error.detail.startswith("Too many files"):
            raise _too_many_images(limits) from error
        raise InvalidRequestError(f"the form cannot be read: {error.detail}") from error
    try:
        uploads, texts = _split_form(form)
        _check_count(len(uploads), limits)
        options = options_from_text(query | texts)
        return CaptionRequest([await _uploaded(upload, limits) for upload in uploads], options)
    finally:
        await form.close()


def _split_form(form: FormData) -> tuple[list[UploadFile], dict[str, str]]:
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
        if name not in (IMAGE_FIELD, *OPTION_NAMES):
            detail, extensions = unknown_name(name, (IMAGE_FIELD, *OPTION_NAMES), kind="form field")
            raise UnknownOptionError(detail, option=name[:100], **extensions)
    return uploads, _once_each(texts)


def _is_blank(upload: UploadFile) -> bool:
    """What a browser sends for a file field in which nothing was picked."""
    return not upload.filename and not upload.size


async def _uploaded(upload: UploadFile, limits: InputLimits) -> ImageInput:
    if (upload.size or 0) > limits.max_image_bytes:
        return ImageInput(too_many_bytes(upload.size or 0, limits.max_image_bytes), upload.filename)
    return ImageInput(await upload.read(), upload.filename)


async def _read_json(request: Request, query: dict[str, str], limits: InputLimits) -> CaptionRequest:
    body = await request.body()
    parsed = await run_in_threadpool(_parse_json, body)
    _check_count(len(parsed.images), limits)
    options = options_from_json(parsed.options, query=query)
    urls = [image.url for image in parsed.images]
    fetched = await fetch_each(urls, limits.fetcher, request.state.take_body_bytes)
    pairs = list(zip(parsed.images, fetched, strict=True))
    images = await run_in_threadpool(lambda: [_json_input(image, got, limits) for image, got in pairs])
    return CaptionRequest(images, options)


def _parse_json(body: bytes) -> JsonCaptionRequest:
    try:
        return JsonCaptionRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid_json(error) from error


def _invalid_json(error: ValidationError) -> ServiceError:
    errors = error.errors(include_url=False, include_input=False)
    for one in errors:  # first: a mistyped name also shows as a missing one
        if one["type"] == "extra_forbidden":
            detail, extensions = unknown_name(str(one["loc"][-1]), _JSON_FIELDS, kind="JSON field")
            return InvalidRequestError(detail, **extensions)
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])
    message = f"{where}: {first['msg']}" if where else first["msg"]
    return InvalidRequestError(f"the JSON body is not a caption request: {message}")


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


def _posted(data: bytes, limits: InputLimits) -> ImageInput:
    if not data:
        raise NoImageError("the request body is empty; post the bytes of an image")
    return ImageInput(
        too_many_bytes(len(data), limits.max_image_bytes) if len(data) > limits.max_image_bytes else data
    )


def _check_count(count: int, limits: InputLimits) -> None:
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
