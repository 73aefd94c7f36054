"""What goes over the wire as JSON."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from service.problems import Problem

MAX_EMBEDDING_NUMBERS = 4096
MAX_TEXTS = 256
MAX_TEXT_CHARS = 1000

Base64: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "byte"})]

_SOURCES = ("data", "embedding", "url")


def _one_source(schema: dict[str, Any]) -> None:
    """Says in JSON schema that one of the sources is given, and not null."""
    kinds = {name: {"type": "null"} for name in _SOURCES}
    schema["oneOf"] = [
        {"required": [name], "properties": kinds | {name: {"not": {"type": "null"}}}} for name in _SOURCES
    ]


class JsonImage(BaseModel):
    """One image of a JSON request: exactly one of `data`, `embedding` and `url`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_one_source)

    data: Base64 | None = Field(None, description="The image file in base64, plain or as a data URL.")
    embedding: list[Annotated[float, Strict()]] | None = Field(
        None,
        max_length=MAX_EMBEDDING_NUMBERS,
        description="The image's embedding by this service's scorer; its length does not matter.",
    )
    url: str | None = Field(None, description="Address of the image; only where URL fetching is enabled.")
    file_name: str | None = Field(None, max_length=1024, description="Comes back in the result.")

    @classmethod
    def at(cls, address: str) -> "JsonImage":
        """The image at a URL, or in a data URL or base64."""
        is_url = address.startswith(("http:", "https:"))
        return cls.model_validate({"url" if is_url else "data": address})

    @model_validator(mode="after")
    def _has_one_source(self) -> "JsonImage":
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of data, embedding and url; {len(given)} are given")
        return self


class JsonCaptionRequest(BaseModel):
    """A request for captions in JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[JsonImage] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict, description="Caption options.")


class Caption(BaseModel):
    """One caption and how well it fits."""

    text: str
    clip_similarity: float = Field(description="Cosine of image and caption by the scorer, -1..1.")
    clip_score: float = Field(description="2.5 x max(clip_similarity, 0), 0..2.5 (arXiv 2104.08718).")
    log_likelihood: float = Field(description="Natural logarithm of the model's probability of the caption.")
    num_tokens: int = Field(description="Tokens decoded, without the end token.")
    finish_reason: Literal["stop", "length"] = Field(description="Whether the caption ended or was cut off.")


class ImageInfo(BaseModel):
    """The posted image."""

    width: int = Field(description="Pixels, as displayed.")
    height: int = Field(description="Pixels, as displayed.")
    format: str = Field(description="JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, JPEG2000 or HEIF.")
    sha256: str = Field(description="Of the posted bytes.")


class ImageCaptionsResult(BaseModel):
    """What became of one image: captions, or an error."""

    index: int = Field(description="Place of the image in the request, from 0.")
    file_name: str | None
    captions: list[Caption] = Field(description="Best first; empty when there is an error.")
    image: ImageInfo | None = Field(
        description="Null for an embedding and for an image that could not be read."
    )
    warnings: list[str]
    error: Problem | None


class ModelRef(BaseModel):
    """The model version that answered."""

    name: str
    version: str


class ScorerRef(BaseModel):
    """The CLIP model behind clip_similarity and clip_score."""

    name: str
    revision: str


class Timing(BaseModel):
    """Where the time went, in milliseconds; images run side by side: each stage states its slowest."""

    body_ms: float = Field(description="Receiving and parsing the request body.")
    read_ms: float = Field(
        description="Decoding and resizing the image, waiting for a decode thread included."
    )
    queue_ms: float = Field(description="Waiting for the engine.")
    encode_ms: float = Field(description="CLIP's image tower.")
    decode_ms: float = Field(description="Writing the captions.")
    score_ms: float = Field(description="CLIP's text tower.")
    total_ms: float = Field(description="All of it.")


class CaptionsResponse(BaseModel):
    """Captions of all images of a request."""

    id: str
    model: ModelRef
    scorer: ScorerRef
    language: str = Field(description="Language of the captions, a BCP 47 tag.")
    results: list[ImageCaptionsResult]
    timing: Timing


class Token(BaseModel):
    """Data of a `token` event of /v1/captions/stream: what became certain of a caption."""

    index: int = Field(description="Which of the captions; always 0 with `greedy`.")
    text: str = Field(description="Comes after what was sent of this caption before; it is never taken back.")


class Hypothesis(BaseModel):
    """Data of a `hypothesis` event of /v1/captions/stream: a beam search's best caption so far."""

    text: str = Field(description="Replaces what the last such event said; the result may be yet another.")


class JsonScoreRequest(BaseModel):
    """A request for scores in JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[JsonImage] = Field(min_length=1)
    texts: list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]] = Field(
        min_length=1, max_length=MAX_TEXTS, description="Every text is compared with every image."
    )


class Score(BaseModel):
    """How well one text fits one image."""

    text: str
    clip_similarity: float = Field(description="Cosine of image and text by the scorer, -1..1.")
    clip_score: float = Field(description="2.5 x max(clip_similarity, 0), 0..2.5 (arXiv 2104.08718).")


class ImageScoresResult(BaseModel):
    """What became of one image: a score for each text, or an error."""

    index: int = Field(description="Place of the image in the request, from 0.")
    file_name: str | None
    scores: list[Score] = Field(description="In the order of the texts; empty when there is an error.")
    image: ImageInfo | None = Field(
        description="Null for an embedding and for an image that could not be read."
    )
    warnings: list[str]
    error: Problem | None


class ScoresResponse(BaseModel):
    """Scores of all images of a request."""

    id: str
    scorer: ScorerRef
    results: list[ImageScoresResult]
    timing: Timing


class Health(BaseModel):
    """That a health check passed."""

    status: Literal["ok"] = "ok"
