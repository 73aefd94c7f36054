"""POST /v1/captions."""

import asyncio
import time

from fastapi import APIRouter, Request

from service.api.answers import captions_response
from service.api.clients import while_client_waits
from service.api.dependencies import Parts, UseParts
from service.api.inputs import CaptionRequest, read_caption_request
from service.api.openapi import CAPTIONS_BODY, CAPTIONS_PARAMETERS, CAPTIONS_RESPONSES
from service.api.schemas import CaptionsResponse
from service.captioning import CaptionTask
from service.errors import RequestTimeoutError

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
    started = time.perf_counter()
    with parts.captioning.reserve_one() as place:
        asked = await _read_in_time(request, parts)
        parts.model.check_asked_for(asked.options.model)
        body_s = time.perf_counter() - started
        task = CaptionTask(
            asked.options,
            request_id=request.state.request_id,
            deadline=time.monotonic() + parts.settings.deadline_s,
        )
        work = parts.captioning.caption(asked.images, task, first_place=place)
        outcomes = await while_client_waits(request, work)
    return captions_response(
        outcomes, model=parts.model, body_s=body_s, total_s=time.perf_counter() - started
    )


async def _read_in_time(request: Request, parts: Parts) -> CaptionRequest:
    try:
        async with asyncio.timeout(parts.settings.body_timeout_s):
            return await read_caption_request(request, parts.input_limits)
    except TimeoutError as error:
        raise RequestTimeoutError(
            f"the request body did not arrive within {parts.settings.body_timeout_s:g} s"
        ) from error
