"""Datasets as they go over the wire."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.jobs.documents import Dataset
from service.problems import Problem

MAX_URL_CHARS = 2048

WHOLE_PATH: dict[str, Any] = {"pattern": r"^/[^\x00]*$"}
"""Of a folder, as OpenAPI says it; what is no such path is refused in words of our own (jobs/folders.py)."""


def one_of(*names: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]}


class PlaceDataset(BaseModel):
    """A request for a dataset of photos that stay where they are: exactly one of `folder` and `uri`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=one_of("folder", "uri"))

    folder: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Folder of the server below SEMICAP_DATASET_ROOTS, with its subfolders.",
        json_schema_extra=WHOLE_PATH,
    )
    uri: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="Prefix of a bucket below SEMICAP_DATASET_BUCKETS: s3://, gs://, az://.",
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.folder is None) == (self.uri is None):
            raise ValueError("give exactly one of folder and uri")
        return self


class RejectedFile(BaseModel):
    """A file of an upload that is not in the dataset."""

    file_name: str
    problem: Problem


class DatasetInfo(BaseModel):
    """Photos that jobs can run on."""

    id: str
    created: datetime
    items: int = Field(description="Photos in it.")
    bytes: int = Field(description="Of all its photos.")
    folder: str | None = Field(description="The server's folder that holds them.")
    uri: str | None = Field(description="The bucket's prefix that holds them.")
    num_rejected: int = Field(description="Files that were left out.")
    rejected: list[RejectedFile] = Field(description="The first 1,000 of them, each with its problem.")


def dataset_info(dataset: Dataset) -> DatasetInfo:
    """A dataset as it goes over the wire."""
    return DatasetInfo(
        id=dataset.id,
        created=dataset.created,
        items=dataset.num_items,
        bytes=dataset.num_bytes,
        folder=dataset.folder,
        uri=dataset.uri,
        num_rejected=dataset.num_rejected,
        rejected=[RejectedFile(file_name=one.name, problem=one.problem) for one in dataset.rejected],
    )
