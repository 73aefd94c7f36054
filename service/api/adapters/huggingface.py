"""Hugging Face's image-to-text task: raw bytes or JSON to an image, captions to `generated_text`."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from service.api.adapters.client_options import client_options
from service.api.exchange import Answered
from service.api.inputs import InputLimits, content_type_of, json_images, parsed_json, posted_image
from service.api.schemas import Base64, JsonImage
from service.captioning import ImageInput
from service.engine.options import CaptionOptions


class ImageToTextRequest(BaseModel):
    """The JSON form of the task; what else it has is ignored."""

    model_config = ConfigDict(extra="allow")

    inputs: Base64 = Field(description="The image file.")
    parameters: dict[str, Any] | None = Field(
        None,
        description="Names of caption options are honoured, `max_new_tokens` is max_tokens; others ignored.",
    )


class GeneratedText(BaseModel):
    """One caption."""

    generated_text: str


@dataclass(frozen=True)
class ImageToText:
    """An image to caption and how."""

    image: ImageInput
    options: CaptionOptions


async def read_image_to_text(request: Request, limits: InputLimits) -> ImageToText:
    """Reads JSON where the content type says so, else the bytes of an image; raises ServiceError."""
    if content_type_of(request) != "application/json":
        return ImageToText(posted_image(await request.body(), limits), client_options({}))
    asked = await parsed_json(request, ImageToTextRequest)
    parameters = dict(asked.parameters or {})
    generation = parameters.get("generation_parameters")
    given = {**parameters, **(generation if isinstance(generation, dict) else {})}
    given.setdefault("max_tokens", given.get("max_new_tokens"))
    (image,) = await json_images(request, [JsonImage.model_validate({"data": asked.inputs})], limits)
    return ImageToText(image, client_options(given))


def generated_texts(answered: Answered) -> list[GeneratedText]:
    """The captions, best first; raises the image's error."""
    (outcome,) = answered.outcomes
    if outcome.error is not None or outcome.answer is None:
        raise outcome.error or ValueError("an image without an error has captions")
    return [GeneratedText(generated_text=one.text) for one in outcome.answer.captions]
