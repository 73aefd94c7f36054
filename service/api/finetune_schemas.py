"""Fine-tuning jobs as they go over the wire."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.dataset_schemas import MAX_URL_CHARS, WHOLE_PATH, one_of
from service.api.job_schemas import WebhookRequest
from service.finetuning.settings import FinetuneSettings

_SOURCES = ("dataset", "folder", "uri")
_EXAMPLE: dict[str, Any] = {
    "folder": "/srv/photos/museum",
    "settings": {"steps": 200, "seed": 1},
    "auto_activate": True,
}


class FinetuneRequest(BaseModel):
    """A fine-tuning job: exactly one of `dataset`, `folder` and `uri`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={**one_of(*_SOURCES), "examples": [_EXAMPLE]})

    dataset: str | None = Field(None, max_length=64, description="Id of a dataset of photos.")
    folder: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Folder below SEMICAP_DATASET_ROOTS.",
        json_schema_extra=WHOLE_PATH,
    )
    uri: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="Prefix of a bucket below SEMICAP_DATASET_BUCKETS: s3://, gs://, az://.",
    )
    base: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Model version to start from, by id, version, name or alias; null: the one that answers.",
    )
    replay_dataset: str | None = Field(
        None,
        max_length=64,
        description="Id of a dataset of labelled photos, with captions in its metadata.jsonl.",
    )
    settings: FinetuneSettings = Field(
        default_factory=FinetuneSettings, description="What is left out has a default that is safe."
    )
    auto_activate: bool = Field(
        False, description="Let the new version answer at once, if it passes the gate."
    )
    webhook: WebhookRequest | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if sum(getattr(self, name) is not None for name in _SOURCES) != 1:
            raise ValueError("give exactly one of dataset, folder and uri")
        return self
