"""PhotoPrism's Vision API: requests to images, captions to its caption result."""

from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from service.api.exchange import Answered
from service.api.schemas import Base64, JsonImage
from service.captioning import ImageOutcome
from service.errors import NoImageError
from service.registry import ServedModel


class VisionRequest(BaseModel):
    """A caption request of PhotoPrism; what else it sends is ignored."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    model: str | None = None
    url: str | None = Field(None, description="Only where URL fetching is enabled.")
    images: list[Base64] | None = Field(None, description="Data URLs or base64: views of one photo.")

    @property
    def json_images(self) -> list[JsonImage]:
        """Raises NoImageError."""
        addresses = self.images or ([self.url] if self.url else [])
        if not addresses:
            raise NoImageError("the request has neither `images` nor `url`")
        return [JsonImage.at(address) for address in addresses]


class VisionModel(BaseModel):
    type: Literal["caption"] = "caption"
    name: str
    version: str
    resolution: int


class VisionCaption(BaseModel):
    text: str


class VisionResult(BaseModel):
    caption: VisionCaption


class VisionResponse(BaseModel):
    """PhotoPrism's answer with a caption; it has no figure of ours that could be taken for a probability."""

    id: str
    code: int = 200
    model: VisionModel
    result: VisionResult


def vision_response(answered: Answered, *, id: str | None) -> VisionResponse:
    """The caption of that view which CLIP finds described best; raises the error of a view that failed."""
    model = answered.model
    best = max((_best_caption(outcome) for outcome in answered.outcomes), key=lambda one: one[0])
    return VisionResponse(
        id=id or uuid4().hex,
        model=_model(model),
        result=VisionResult(caption=VisionCaption(text=best[1])),
    )


def _best_caption(outcome: ImageOutcome) -> tuple[float, str]:
    if outcome.error is not None or outcome.answer is None:
        raise outcome.error or ValueError("an image without an error has captions")
    best = outcome.answer.captions[0]
    return best.clip_similarity, best.text


def _model(model: ServedModel) -> VisionModel:
    edge = model.captioner.clip.preprocess.image_size
    return VisionModel(name=model.name, version=model.version, resolution=edge)
