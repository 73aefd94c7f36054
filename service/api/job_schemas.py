"""Datasets and jobs as they go over the wire."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.jobs.documents import (
    DUPLICATE_SIMILARITY,
    Dataset,
    Duplicates,
    JobState,
    OutputKind,
    Policy,
    Sidecar,
)
from service.jobs.status import JobStatus
from service.option_reading import options_schema

MAX_URL_CHARS = 2048


def _one_of(*names: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in names]}


class PlaceDataset(BaseModel):
    """A request for a dataset of photos that stay where they are: exactly one of `folder` and `uri`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_one_of("folder", "uri"))

    folder: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Folder of the server below SEMICAP_DATASET_ROOTS, with its subfolders.",
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


class DatasetInfo(Dataset):
    """A dataset; `rejected` names up to 1,000 files that were left out, with the reason."""


class WebhookRequest(BaseModel):
    """Who is told when the job ends."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=MAX_URL_CHARS,
        pattern=r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$",
        description="Gets a signed POST.",
    )


_ANY_OPTIONS: dict[str, Any] = {"properties": options_schema(), "additionalProperties": False}


class CaptionJobRequest(BaseModel):
    """A bulk captioning job: exactly one of `dataset`, `folder` and `uri`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_one_of("dataset", "folder", "uri"))

    dataset: str | None = Field(None, max_length=64, description="Id of a dataset.")
    folder: str | None = Field(
        None, min_length=1, max_length=4096, description="Folder below SEMICAP_DATASET_ROOTS."
    )
    uri: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="Prefix of a bucket below SEMICAP_DATASET_BUCKETS: s3://, gs://, az://.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Caption options, as of POST /v1/captions.",
        json_schema_extra=_ANY_OPTIONS,
    )
    outputs: list[OutputKind] = Field(
        default_factory=list, max_length=6, description="Files to make beside the JSON lines."
    )
    write_to_folder: bool = Field(False, description="Write a text beside each photo of a server folder.")
    sidecar: Sidecar = Field("txt", description="Suffix of those texts.")
    policy: Policy = Field(
        "skip", description="What becomes of a text that is there; overwrite-machine leaves a person's text."
    )
    duplicates: Duplicates = Field(
        "ignore",
        description="Near-duplicates by CLIP embedding: report lists them (`results?output=duplicates`), "
        "caption-once gives all of a group the caption of the first, as `same_as` says.",
    )
    duplicate_similarity: float = Field(
        DUPLICATE_SIMILARITY, gt=0, le=1, description="Cosine from which on two photos are near-duplicates."
    )
    webhook: WebhookRequest | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if sum(one is not None for one in (self.dataset, self.folder, self.uri)) != 1:
            raise ValueError("give exactly one of dataset, folder and uri")
        return self


class JobCounts(BaseModel):
    """Photos of a job by what became of them."""

    total: int
    done: int = Field(description="Captioned.")
    failed: int = Field(description="In `errors`, each with its reason.")
    skipped: int = Field(description="Left as they were, by the policy.")


class JobInfo(BaseModel):
    """A job and where it stands."""

    id: str
    kind: str
    state: JobState
    dataset: str
    attempt: int = Field(description="1, and one more for each retry.")
    counts: JobCounts
    cancel_requested: bool
    images_per_s: float | None = Field(description="Over the last minute, while it runs.")
    seconds_left: float | None = Field(description="Estimated from that rate.")
    created: datetime
    started: datetime | None
    finished: datetime | None
    options: dict[str, Any]
    outputs: list[OutputKind]
    write_to_folder: bool
    sidecar: Sidecar
    policy: Policy
    duplicates: Duplicates
    duplicate_similarity: float
    error: str | None = Field(description="Why the whole job failed, where it did.")


class RetryInfo(JobInfo):
    """A job that goes on, and how many photos it runs again."""

    retried: int


class JobList(BaseModel):
    """Jobs, the newest first."""

    data: list[JobInfo]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null at the end.")


def job_info(status: JobStatus) -> JobInfo:
    """A job's status as it goes over the wire."""
    job, counts = status.job, status.counts
    return JobInfo(
        id=job.id,
        kind=job.kind,
        state=status.state,
        dataset=job.dataset,
        attempt=status.attempt,
        counts=JobCounts(total=job.num_items, done=counts.done, failed=counts.failed, skipped=counts.skipped),
        cancel_requested=status.cancel_requested,
        images_per_s=_rounded(status.images_per_s, 2),
        seconds_left=_rounded(status.seconds_left, 1),
        created=job.created,
        started=status.started,
        finished=status.finished,
        options=job.options,
        outputs=list(job.outputs),
        write_to_folder=job.writes_to_folder,
        sidecar=job.sidecar,
        policy=job.policy,
        duplicates=job.duplicates,
        duplicate_similarity=job.duplicate_similarity,
        error=status.error,
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
