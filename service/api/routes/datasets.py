"""Datasets: photos that jobs run on."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.api.dataset_schemas import DatasetInfo, PlaceDataset, dataset_info
from service.api.dependencies import UseJobs
from service.api.inputs import content_type_of
from service.api.job_openapi import DATASET_BODY
from service.api.responses import problem_responses
from service.errors import (
    BrokenImageError,
    BrokerUnavailableError,
    BucketNotAllowedError,
    DatasetNotFoundError,
    FolderNotAllowedError,
    ImageTooLargeError,
    InvalidDatasetError,
    InvalidRequestError,
    NotFoundError,
    PhotoLostError,
    RequestTimeoutError,
    RequestTooLargeError,
    StoreUnavailableError,
    TooManyJobsError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
)

router = APIRouter(prefix="/v1/datasets", tags=["jobs"])

_THUMBNAIL: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        "description": "At most 480 pixels on the longer edge.",
    }
}
_FOUND = problem_responses(DatasetNotFoundError, StoreUnavailableError, BrokerUnavailableError)


@router.post(
    "",
    status_code=201,
    summary="Upload photos, or name a folder of the server or a bucket",
    responses=problem_responses(
        RequestTimeoutError,
        RequestTooLargeError,
        UnsupportedMediaTypeError,
        InvalidDatasetError,
        InvalidRequestError,
        FolderNotAllowedError,
        BucketNotAllowedError,
        TooManyJobsError,
        StoreUnavailableError,
        BrokerUnavailableError,
    ),
    openapi_extra={"requestBody": DATASET_BODY},
)
async def create_dataset(request: Request, response: Response, jobs: UseJobs) -> DatasetInfo:
    """A zip or tar archive as the body, a form of photos and archives, one photo, or JSON with `folder`
    or `uri`.

    Archives are read member by member; what is no photo, leads out of the archive or unpacks beyond the
    limits is left out and listed in `rejected`. A photo that is broken is kept: its job says what is wrong.
    """
    if content_type_of(request) == "application/json":
        asked = _place_of(await request.body())
        dataset = await run_in_threadpool(jobs.sources.at, folder=asked.folder, uri=asked.uri)
    else:
        dataset = await jobs.uploads.receive(request)
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return dataset_info(dataset)


def _place_of(body: bytes) -> PlaceDataset:
    try:
        return PlaceDataset.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise InvalidRequestError(f"{place}: {first['msg']}") from error


@router.get("/{dataset}", summary="One dataset", responses=_FOUND)
def get_dataset(dataset: str, jobs: UseJobs) -> DatasetInfo:
    return dataset_info(jobs.parts.datasets.get(dataset))


@router.get(
    "/{dataset}/thumbnails/{item}",
    summary="A small JPEG of one photo",
    response_class=Response,
    responses=problem_responses(
        DatasetNotFoundError,
        NotFoundError,
        FolderNotAllowedError,
        BucketNotAllowedError,
        BrokenImageError,
        UnsupportedImageError,
        ImageTooLargeError,
        InvalidRequestError,
        PhotoLostError,
        TooManyJobsError,
        StoreUnavailableError,
        BrokerUnavailableError,
    )
    | _THUMBNAIL,
)
async def get_thumbnail(dataset: str, item: Annotated[int, Path(ge=0, lt=2**31)], jobs: UseJobs) -> Response:
    """Upright and on white, as the model sees it; `item` is its number as results and errors give it."""
    found = await run_in_threadpool(jobs.sources.known, dataset)
    picture = await jobs.thumbnails.make(found, item)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})
