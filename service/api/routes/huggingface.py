"""Hugging Face's image-to-text task."""

from fastapi import APIRouter, Request

from service.api.adapters.client_options import check_client_model
from service.api.adapters.documented import error_responses, inlined
from service.api.adapters.error_shapes import ollama_error
from service.api.adapters.huggingface import (
    GeneratedText,
    ImageToTextRequest,
    generated_texts,
    read_image_to_text,
)
from service.api.dependencies import UseParts
from service.api.exchange import exchange
from service.image_formats import MEDIA_TYPES

router = APIRouter(tags=["huggingface"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        **dict.fromkeys((*MEDIA_TYPES, "application/octet-stream"), _BINARY),
        "application/json": {"schema": inlined(ImageToTextRequest.model_json_schema())},
    },
}


@router.post(
    "/models/{model:path}",
    summary="Hugging Face: image to text",
    responses=error_responses(ollama_error),
    openapi_extra={"requestBody": _BODY},
)
async def image_to_text(request: Request, model: str, parts: UseParts) -> list[GeneratedText]:
    """Captions of the posted image; a name that is not one of ours is answered by the active model."""
    with exchange(request, parts) as talk:
        asked = await talk.read(read_image_to_text)
        check_client_model(parts.models, talk.bind(1), model)
        return generated_texts(await talk.captions([asked.image], asked.options))
