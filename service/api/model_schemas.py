"""Model versions as JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas import ScorerRef
from service.model_versions import Origin


class GateCheck(BaseModel):
    """One guard figure of a fine-tuned version."""

    model_config = ConfigDict(extra="allow")

    name: str
    before: float | None = Field(None, description="Of the version that it was made from.")
    after: float | None = Field(None, description="Of this version.")
    limit: float | None = Field(None, description="What `after` may not pass.")
    passed: bool


class Gate(BaseModel):
    """Whether a fine-tuned version may answer."""

    model_config = ConfigDict(extra="allow")

    passed: bool
    checks: list[GateCheck] = []
    reason: str = ""


class ModelLinks(BaseModel):
    """Addresses of what belongs to a version."""

    self: str
    report: str | None = Field(description="What was measured of it, as JSON; null where nothing was.")
    report_html: str | None = Field(description="The same as a page.")


class ModelInfo(BaseModel):
    """A model version, in the shape of OpenAI's model object with our fields added."""

    id: str = Field(description="name:version; `model` takes it, the name, the version or an alias.")
    object: Literal["model"] = "model"
    created: int = Field(description="When it was made or imported, in seconds since 1970.")
    owned_by: str = "semicap"
    name: str
    version: str
    is_active: bool = Field(description="Whether it answers requests here.")
    aliases: list[str]
    origin: Origin = Field(
        description="It comes along, was imported, was made by a job, or is the folder in SEMICAP_CHECKPOINT."
    )
    stage: str = Field(description="Training stage that made it.")
    step: int = Field(description="Training steps of that stage.")
    parent: str | None = Field(description="Version that it was trained from.")
    job: str | None = Field(description="The fine-tuning job that made it.")
    gate: Gate | None = Field(description="Null where nothing was measured.")
    bytes: int = Field(description="Size of its files.")
    scorer: ScorerRef
    language: str = Field(description="Language of its captions, a BCP 47 tag.")
    links: ModelLinks


class ModelDetail(ModelInfo):
    """A model version with its model card."""

    card: str = Field(description="Model card, Markdown.")
    embedding_numbers: int = Field(description="Numbers that an `embedding` input has to have.")


class ModelList(BaseModel):
    """Model versions, in the shape of OpenAI's list."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Activate(BaseModel):
    """How a version is activated."""

    model_config = ConfigDict(extra="forbid")

    override: bool = Field(False, description="Activates it although it did not pass its gate.")


class Alias(BaseModel):
    """What an alias means."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1, max_length=200, description="Id, name, version or another alias of the version."
    )
