"""POST /v1/captions and /v1/captions/stream."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api.answers import captions_response
from service.api.caption_events import caption_events
from service.api.dependencies import UseParts
from service.api.exchange import exchange
from service.api.growing import GrowingTexts
from service.api.inputs import only_image, read_caption_request
from service.api.live import EVENT_STREAM, LiveResponse
from service.api.openapi import (
    CAPTIONS_BODY,
    CAPTIONS_PARAMETERS,
    CAPTIONS_RESPONSES,
    STREAM_BODY,
    STREAM_RESPONSES,
)
from service.api.schemas import CaptionsResponse

router = APIRouter(tags=["captions"])


@router.post(
    "/v1/captions",
    summary="Caption one or several images",
    responses=CAPTIONS_RESPONSES,
    openapi_extra={"requestBody": CAPTIONS_BODY, "parameters": CAPTIONS_PARAMETERS},
)
async def create_captions(request: Request, parts: UseParts) -> CaptionsResponse:
    """Captions, best first, each with its CLIP score.

    Post one image as the body (`image/*`, options in the query), a form with one or more files in `image`
    (options as form fields or in the query), or JSON. An image that cannot be captioned is reported in its
    own result and the others still succeed; when none succeeds, the answer is the first one's problem.
    """
    with exchange(request, parts) as talk:
        asked = await talk.read(read_caption_request)
        return captions_response(await talk.captions(asked.images, asked.options))


@router.post(
    "/v1/captions/stream",
    summary="Caption one image, its words as they are decided",
    response_class=Response,
    responses=STREAM_RESPONSES,
    openapi_extra={"requestBody": STREAM_BODY, "parameters": CAPTIONS_PARAMETERS},
)
async def stream_captions(request: Request, parts: UseParts) -> Response:
    """Server-sent events about one image, asked for as in `POST /v1/captions`.

    With `greedy` and `sample`, `token` events bring what became certain of each caption; a word comes when it
    is whole. A beam search decides nothing before its end: `hypothesis` events bring its best caption so far,
    each replaces the one before, and the result may differ from all of them. The last event is `result`, with
    the same data as the answer of `POST /v1/captions`, or `error` with a problem document. Leaving frees the
    image's place at once.
    """
    with exchange(request, parts) as talk:
        asked = await talk.read(read_caption_request)
        stream = await talk.stream(only_image(asked.images), asked.options)
    growing = GrowingTexts(talk.model.captioner.tokenizer, asked.options)
    events = caption_events(stream, talk, growing=growing, options=asked.options)
    return LiveResponse(events, media_type=EVENT_STREAM, source=stream)
