"""Ollama's API."""

from functools import partial

from fastapi import APIRouter, Request

from service import release
from service.api.adapters.client_options import check_client_model, check_own_model
from service.api.adapters.documented import error_responses, json_body, streamed_response
from service.api.adapters.error_shapes import ollama_error
from service.api.adapters.ollama import (
    PROTOCOL_VERSION,
    GenerateRequest,
    GenerateResponse,
    MakeAnswer,
    OllamaChatRequest,
    OllamaChatResponse,
    answer_lines,
    chat_answer,
    generate_answer,
    loaded,
    whole_answer,
)
from service.api.adapters.ollama_models import ModelTags, ShownModel, ShowRequest, shown, tag_of
from service.api.adapters.replies import open_reply, reply_of
from service.api.dependencies import Parts, UseParts
from service.api.exchange import exchange, read_in_time
from service.api.inputs import json_images, read_json
from service.api.live import JSON_LINES, LiveResponse
from service.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    RequestTooLargeError,
    StoppingError,
)

router = APIRouter(prefix="/api", tags=["ollama"])


@router.post(
    "/generate",
    summary="Ollama: caption images",
    response_model=GenerateResponse,
    response_model_exclude_none=True,
    responses=error_responses(ollama_error) | streamed_response(JSON_LINES, {"type": "object"}),
    openapi_extra=json_body(GenerateRequest),
)
async def ollama_generate(request: Request, parts: UseParts) -> object:
    """The caption of the image, or one caption a line for several; streamed unless `stream` is false.

    The prompt is ignored: this service does not follow instructions. `options` may have the names of caption
    options; `temperature` matters with `strategy: sample` only.
    """
    return await _answer(request, parts, GenerateRequest, generate_answer)


@router.post(
    "/chat",
    summary="Ollama: caption the images of a chat",
    response_model=OllamaChatResponse,
    response_model_exclude_none=True,
    responses=error_responses(ollama_error) | streamed_response(JSON_LINES, {"type": "object"}),
    openapi_extra=json_body(OllamaChatRequest),
)
async def ollama_chat(request: Request, parts: UseParts) -> object:
    """As /api/generate, of the last message that has images."""
    return await _answer(request, parts, OllamaChatRequest, chat_answer)


async def _answer(
    request: Request, parts: Parts, kind: type[GenerateRequest] | type[OllamaChatRequest], make: MakeAnswer
) -> object:
    with exchange(request, parts) as talk:
        asked: GenerateRequest | OllamaChatRequest = await talk.read(partial(read_json, model=kind))
        if asked.asks_to_load:
            check_client_model(parts.models, talk.model, asked.model)
            return loaded(make, model=talk.model.id)
        images, options = (
            await json_images(request, asked.json_images, parts.input_limits),
            asked.caption_options,
        )
        model = talk.bind(len(images))
        check_client_model(parts.models, model, asked.model)
        if not asked.is_streamed:
            return whole_answer(make, reply_of(await talk.captions(images, options)), model=model.id)
        reply = await open_reply(talk, images, options)
    lines = answer_lines(make, reply, model=model.id)
    return LiveResponse(lines, media_type=JSON_LINES, source=reply.source)


@router.head("/tags", include_in_schema=False)
@router.get("/tags", summary="Ollama: list models", responses=error_responses(ollama_error, StoppingError))
async def ollama_tags(parts: UseParts) -> ModelTags:
    return ModelTags(models=[tag_of(parts.model)])


@router.head("/version", include_in_schema=False)
@router.get("/version", summary="Ollama: version", responses=error_responses(ollama_error, StoppingError))
async def ollama_version() -> dict[str, str]:
    """The version of Ollama whose API is spoken here, and ours."""
    return {"version": PROTOCOL_VERSION, "semicap": release()}


@router.post(
    "/show",
    summary="Ollama: describe a model",
    responses=error_responses(
        ollama_error,
        InvalidRequestError,
        ModelNotFoundError,
        RequestTimeoutError,
        RequestTooLargeError,
        StoppingError,
    ),
    openapi_extra=json_body(ShowRequest),
)
async def ollama_show(request: Request, parts: UseParts) -> ShownModel:
    """The model's sizes, and its card as `license`."""
    asked = await read_in_time(request, parts, partial(read_json, model=ShowRequest))
    check_own_model(parts.model, asked.model or asked.name)
    return shown(parts.model)
