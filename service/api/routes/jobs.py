"""Jobs: long work over many photos."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse
from starlette.responses import Response, StreamingResponse

from service.api.dependencies import UseJobs, UseParts
from service.api.job_events import event_bytes
from service.api.job_schemas import CaptionJobRequest, JobInfo, JobList, RetryInfo, job_info
from service.api.responses import problem_responses
from service.errors import (
    BrokerUnavailableError,
    BucketNotAllowedError,
    DatasetNotFoundError,
    FolderNotAllowedError,
    IdempotencyKeyReusedError,
    InvalidDatasetError,
    InvalidOptionError,
    InvalidRequestError,
    JobNotFoundError,
    JobStateError,
    ModelNotFoundError,
    RequestInProgressError,
    StoreUnavailableError,
    TooManyJobsError,
    UnknownOptionError,
)
from service.jobs.failures import worth_retrying
from service.jobs.outputs import JSON_LINES, errors, json_lines

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_FOUND = problem_responses(JobNotFoundError, StoreUnavailableError, BrokerUnavailableError)
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {JSON_LINES: {}}, "description": "One JSON object a line."}
}


@router.post(
    "/captions",
    status_code=202,
    summary="Caption a dataset, a folder of the server or a bucket",
    responses=problem_responses(
        DatasetNotFoundError,
        FolderNotAllowedError,
        BucketNotAllowedError,
        ModelNotFoundError,
        InvalidDatasetError,
        InvalidRequestError,
        InvalidOptionError,
        UnknownOptionError,
        RequestInProgressError,
        IdempotencyKeyReusedError,
        TooManyJobsError,
        StoreUnavailableError,
        BrokerUnavailableError,
    ),
)
def create_caption_job(
    asked: CaptionJobRequest,
    response: Response,
    parts: UseParts,
    jobs: UseJobs,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> JobInfo:
    """Once this answers 202 the job will be done, whatever happens to workers and broker.

    With an `Idempotency-Key` the same request again answers with the same job.
    """
    status = jobs.submission.submit(asked, models=parts.models, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{status.job.id}"
    return job_info(status)


@router.get(
    "",
    summary="List jobs, the newest first",
    responses=problem_responses(InvalidRequestError, StoreUnavailableError, BrokerUnavailableError),
)
def list_jobs(
    jobs: UseJobs,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=64, description="From the page before.")] = None,
) -> JobList:
    newest_first = [one for one in reversed(jobs.archive.ids()) if cursor is None or one < cursor]
    page = newest_first[:limit]
    data = [job_info(status, with_curve=False) for status in jobs.statuses(page)]
    return JobList(data=data, next_cursor=page[-1] if len(newest_first) > limit else None)


@router.get("/{job}", summary="One job", responses=_FOUND)
def get_job(job: str, jobs: UseJobs) -> JobInfo:
    return job_info(jobs.parts.jobs.status(job))


@router.delete(
    "/{job}",
    status_code=202,
    summary="Cancel a job",
    responses=_FOUND | problem_responses(JobStateError),
)
def cancel_job(job: str, jobs: UseJobs) -> JobInfo:
    """Takes effect within a batch; what is captioned stays, and a retry does the rest."""
    return job_info(jobs.parts.jobs.cancel(job))


@router.post(
    "/{job}/pause",
    status_code=202,
    summary="Let a job rest",
    responses=_FOUND | problem_responses(JobStateError),
)
def pause_job(job: str, jobs: UseJobs) -> JobInfo:
    """Takes effect within a batch; what is captioned stays, also over restarts, until it is resumed."""
    return job_info(jobs.parts.jobs.pause(job))


@router.post(
    "/{job}/resume",
    status_code=202,
    summary="Go on with a paused job",
    responses=_FOUND | problem_responses(JobStateError),
)
def resume_job(job: str, jobs: UseJobs) -> JobInfo:
    return job_info(jobs.parts.jobs.resume(job))


@router.post(
    "/{job}/retry",
    status_code=202,
    summary="Run again what failed",
    responses=_FOUND | problem_responses(JobStateError),
)
def retry_job(job: str, jobs: UseJobs) -> RetryInfo:
    """Runs photos whose failure was the service's or whose file has changed, and what a cancel left."""
    may_succeed = worth_retrying(jobs.parts.datasets, jobs.archive.job(job))
    status, retried = jobs.parts.jobs.retry(job, may_succeed=may_succeed)
    return RetryInfo(**job_info(status).model_dump(), retried=retried)


@router.get(
    "/{job}/events",
    summary="Progress as server-sent events",
    responses=_FOUND | problem_responses(TooManyJobsError),
)
def job_events(
    job: str, jobs: UseJobs, last_event_id: Annotated[str | None, Header()] = None
) -> EventSourceResponse:
    """Ends when the job has ended; `Last-Event-ID` goes on after that event."""
    jobs.archive.job(job)
    place = jobs.event_streams.take()
    return EventSourceResponse(event_bytes(jobs.events.listen(job, after=last_event_id), place))


@router.get(
    "/{job}/results",
    summary="Captions as JSON lines, or another output of an ended job",
    response_class=StreamingResponse,
    responses=_FOUND | problem_responses(JobStateError, InvalidRequestError) | _LINES,
)
def job_results(
    job: str,
    jobs: UseJobs,
    output: Annotated[str, Query(max_length=20, description="jsonl, or one of the job's outputs.")] = "jsonl",
) -> StreamingResponse:
    """One line for each captioned photo, also while the job runs."""
    if output != "jsonl":
        return jobs.output_response(job, output)
    return jobs.lines_response(job)


@router.get(
    "/{job}/errors",
    summary="Photos that failed, as JSON lines",
    response_class=StreamingResponse,
    responses=_FOUND | _LINES,
)
def job_errors(job: str, jobs: UseJobs) -> StreamingResponse:
    """One line for each failed photo: its file and the problem with its reason."""
    lines = json_lines(errors(jobs.parts.jobs.results(job)))
    return StreamingResponse(lines, media_type=JSON_LINES)
