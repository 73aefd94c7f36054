"""Jobs as they go over the wire."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.dataset_schemas import MAX_URL_CHARS, WHOLE_PATH, one_of
from service.jobs.documents import (
    DUPLICATE_SIMILARITY,
    CaptionJob,
    Duplicates,
    FinetuneJob,
    JobState,
    ModelMade,
    OutputKind,
    Policy,
    Sidecar,
    TrainingRecord,
)
from service.jobs.status import JobStatus
from service.option_reading import options_schema


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

    model_config = ConfigDict(extra="forbid", json_schema_extra=one_of("dataset", "folder", "uri"))

    dataset: str | None = Field(None, max_length=64, description="Id of a dataset.")
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
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Caption options, as of POST /v1/captions.",
        json_schema_extra=_ANY_OPTIONS,
    )
    outputs: list[OutputKind | Literal["jsonl"]] = Field(
        default_factory=list, max_length=7, description="Files to make beside `jsonl`, which is always made."
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


class TrainingProgress(BaseModel):
    """How far a training is."""

    phase: str = Field(description="preparing, training, reporting or publishing.")
    step: int
    steps: int = Field(description="At most; it may stop earlier.")


class ModelLinks(BaseModel):
    """Where a version's report is."""

    model: str
    report: str
    report_html: str


class MadeModel(BaseModel):
    """The version that a job has made."""

    id: str
    gate: dict[str, Any] = Field(description="passed, reason, and each guard figure before and after.")
    is_activated: bool = Field(description="By this job, because of auto_activate.")
    links: ModelLinks


class JobLinks(BaseModel):
    """Where the rest of a job is."""

    self: str
    events: str
    results: str
    errors: str


class JobInfo(BaseModel):
    """A job and where it stands."""

    id: str
    kind: str
    state: JobState
    dataset: str
    attempt: int = Field(description="1, and one more for each retry.")
    counts: JobCounts
    cancel_requested: bool
    rate: float | None = Field(description="Photos a second over the last minute, while it runs.")
    seconds_left: float | None = Field(description="Estimated from that rate.")
    created: datetime
    started: datetime | None
    ended: datetime | None
    options: dict[str, Any] = Field(default_factory=dict)
    outputs: list[OutputKind] = Field(default_factory=list)
    write_to_folder: bool = False
    sidecar: Sidecar = "txt"
    policy: Policy = "skip"
    duplicates: Duplicates = "ignore"
    duplicate_similarity: float = DUPLICATE_SIMILARITY
    error: str | None = Field(description="Why the whole job failed, where it did.")
    links: JobLinks

    base: str | None = Field(None, description="Of a fine-tuning: the version that it starts from.")
    replay_dataset: str | None = Field(None, description="Of a fine-tuning: its labelled photos.")
    settings: dict[str, Any] | None = Field(None, description="Of a fine-tuning.")
    auto_activate: bool | None = Field(None, description="Of a fine-tuning.")
    progress: TrainingProgress | None = Field(None, description="Of a fine-tuning.")
    curve: list[dict[str, float]] | None = Field(
        None, description="Of a fine-tuning: figures by `step`; not in lists of jobs."
    )
    model: MadeModel | None = Field(None, description="Of a fine-tuning that has succeeded.")
    note: str | None = Field(None, description="Of a fine-tuning: what else there is to know of its end.")


class RetryInfo(JobInfo):
    """A job that goes on, and how many photos it runs again: none where only its files are made again."""

    retried: int


class JobList(BaseModel):
    """Jobs, the newest first."""

    data: list[JobInfo]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null at the end.")


def job_info(status: JobStatus, *, with_curve: bool = True) -> JobInfo:
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
        rate=_rounded(status.rate, 2),
        seconds_left=_rounded(status.seconds_left, 1),
        created=job.created,
        started=status.started,
        ended=status.ended,
        error=status.error,
        links=_links(f"/v1/jobs/{job.id}"),
        **(_caption_fields(job) if isinstance(job, CaptionJob) else _finetune_fields(job)),
        **(_training_fields(status.training, with_curve=with_curve) if status.training else {}),
    )


def _links(address: str) -> JobLinks:
    return JobLinks(
        self=address,
        events=f"{address}/events",
        results=f"{address}/results",
        errors=f"{address}/errors",
    )


def _caption_fields(job: CaptionJob) -> dict[str, Any]:
    return {
        "options": job.options,
        "outputs": list(job.outputs),
        "write_to_folder": job.writes_to_folder,
        "sidecar": job.sidecar,
        "policy": job.policy,
        "duplicates": job.duplicates,
        "duplicate_similarity": job.duplicate_similarity,
    }


def _finetune_fields(job: FinetuneJob) -> dict[str, Any]:
    return {
        "base": job.base,
        "replay_dataset": job.replay_dataset,
        "settings": job.settings,
        "auto_activate": job.auto_activate,
    }


def _training_fields(record: TrainingRecord, *, with_curve: bool) -> dict[str, Any]:
    return {
        "progress": TrainingProgress(phase=record.phase, step=record.step, steps=record.steps),
        "curve": list(record.curve) if with_curve else None,
        "model": _made_model(record.model) if record.model else None,
        "note": record.note,
    }


def _made_model(made: ModelMade) -> MadeModel:
    address = f"/v1/models/{made.id}"
    links = ModelLinks(model=address, report=f"{address}/report", report_html=f"{address}/report.html")
    return MadeModel(id=made.id, gate=made.gate, is_activated=made.is_activated, links=links)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
