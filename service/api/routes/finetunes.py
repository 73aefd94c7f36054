"""Fine-tuning jobs: a new model version from photos without captions."""

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from service.api.dependencies import UseJobs, UseKey, UseParts
from service.api.finetune_schemas import FinetuneRequest
from service.api.finetune_service import check_may_activate
from service.api.job_schemas import JobInfo, job_info
from service.api.responses import problem_responses
from service.errors import (
    BrokerUnavailableError,
    BucketNotAllowedError,
    DatasetNotFoundError,
    FolderNotAllowedError,
    IdempotencyKeyReusedError,
    InvalidDatasetError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestInProgressError,
    StoreUnavailableError,
    TooManyJobsError,
)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "/finetunes",
    status_code=202,
    summary="Adapt a model version to photos without captions",
    responses=problem_responses(
        DatasetNotFoundError,
        FolderNotAllowedError,
        BucketNotAllowedError,
        ModelNotFoundError,
        InvalidDatasetError,
        InvalidRequestError,
        RequestInProgressError,
        IdempotencyKeyReusedError,
        TooManyJobsError,
        StoreUnavailableError,
        BrokerUnavailableError,
    ),
)
def create_finetune_job(
    asked: FinetuneRequest,
    response: Response,
    parts: UseParts,
    jobs: UseJobs,
    key: UseKey,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> JobInfo:
    """Ends with a new model version, its report, and the gate's verdict on held-out photos.

    A version that did not pass is kept, and answers only when it is activated with an override.
    Where keys are required, `auto_activate` needs one with the scope admin.
    """
    check_may_activate(asked, key)
    status = jobs.finetunes.submit(asked, answering=parts.model.id, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{status.job.id}"
    return job_info(status)
