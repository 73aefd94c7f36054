"""OpenAI's chat completions; its list of models is ours (routes/models.py)."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.adapters.client_options import check_client_model
from service.api.adapters.documented import error_responses, json_body, streamed_response
from service.api.adapters.error_shapes import openai_error
from service.api.adapters.openai import (
    ChatCompletion,
    ChatRequest,
    completion_chunks,
    completion_of,
    refusal,
    refusal_chunks,
)
from service.api.adapters.replies import open_reply, reply_of
from service.api.dependencies import UseParts
from service.api.exchange import exchange
from service.api.inputs import json_images, read_json
from service.api.live import EVENT_STREAM, LiveResponse, event_schema

router = APIRouter(tags=["openai"])


@router.post(
    "/v1/chat/completions",
    summary="OpenAI: caption the images of a chat",
    response_model=ChatCompletion,
    responses=error_responses(openai_error) | streamed_response(EVENT_STREAM, event_schema()),
    openapi_extra=json_body(ChatRequest),
)
async def create_chat_completion(request: Request, parts: UseParts) -> ChatCompletion | Response:
    """The caption of the last message's image, or one caption a line for several.

    What the messages say is ignored: this service does not follow instructions. Fields with the names of
    caption options are honoured (`extra_body` in OpenAI's client), others ignored; `temperature` matters with
    `strategy: sample` only. A chat without an image is answered by a `refusal` and no content.
    """
    with exchange(request, parts) as talk:
        asked = await talk.read(partial(read_json, model=ChatRequest))
        options, wanted = asked.options, asked.images
        images = await json_images(request, wanted, parts.input_limits) if wanted else []
        model = talk.bind(max(1, len(images)))
        check_client_model(parts.models, model, asked.model)
        if not wanted and asked.stream:
            return LiveResponse(refusal_chunks(model=model.id), media_type=EVENT_STREAM)
        if not wanted:
            return refusal(model=model.id)
        if not asked.stream:
            return completion_of(reply_of(await talk.captions(images, options)), model=model.id)
        reply = await open_reply(talk, images, options)
    chunks = completion_chunks(reply, model=model.id, wants_usage=asked.wants_usage)
    return LiveResponse(chunks, media_type=EVENT_STREAM, source=reply.source)
