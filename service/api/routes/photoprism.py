"""The caption route of PhotoPrism's Vision API."""

from functools import partial

from fastapi import APIRouter, Request

from service.api.adapters.client_options import check_client_model, client_options
from service.api.adapters.documented import error_responses, json_body
from service.api.adapters.error_shapes import photoprism_error
from service.api.adapters.photoprism import VisionRequest, VisionResponse, vision_response
from service.api.dependencies import UseParts
from service.api.exchange import exchange
from service.api.inputs import json_images, read_json

router = APIRouter(tags=["photoprism"])


@router.post(
    "/api/v1/vision/caption",
    summary="PhotoPrism: caption a photo",
    responses=error_responses(photoprism_error),
    openapi_extra=json_body(VisionRequest),
)
async def photoprism_caption(request: Request, parts: UseParts) -> VisionResponse:
    """One caption; of several views of a photo the one that fits its view best."""
    with exchange(request, parts) as talk:
        asked = await talk.read(partial(read_json, model=VisionRequest))
        images = await json_images(request, asked.json_images, parts.input_limits)
        check_client_model(parts.models, talk.bind(len(images)), asked.model)
        return vision_response(await talk.captions(images, client_options({})), id=asked.id)
