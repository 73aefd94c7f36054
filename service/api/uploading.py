"""Request bodies to datasets: spooled to disk as they stream, then read member by member in a thread."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.api.inputs import content_type_of
from service.errors import (
    InvalidDatasetError,
    InvalidRequestError,
    RequestTimeoutError,
    StoreUnavailableError,
    TooManyJobsError,
    UnsupportedMediaTypeError,
)
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import Dataset
from service.jobs.store import ArtifactStore
from service.jobs.uploads import ARCHIVES, Ingest, UploadLimits
from service.settings import Settings

MAX_FORM_FILES = 200
"""Files of one form; a form's parser holds up to a megabyte of each in memory."""

NamedFile = tuple[str, IO[bytes]]

log = structlog.stdlib.get_logger("semicap.http")


def scratch_folder(settings: Settings) -> Path:
    """Where uploads lie while they are read: beside the store, as /tmp is memory in many a container."""
    folder = settings.data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def spool_forms(settings: Settings) -> None:
    """Puts this process's temporary files there too: the parser of forms cannot be told where."""
    tempfile.tempdir = str(scratch_folder(settings))


class Uploads:
    """Takes uploads, a bounded number at one time."""

    def __init__(self, store: ArtifactStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._running = 0

    async def receive(self, request: Request) -> Dataset:
        """The dataset of a request's photos or archives.

        Raises:
            ServiceError: too many uploads, too slow, too large, no photos in it, or no room on the disk.
        """
        with self._place():
            try:
                async with asyncio.timeout(self._settings.upload_timeout_s):
                    with _needing_disk():
                        return await self._read(request)
            except TimeoutError as error:
                raise RequestTimeoutError(
                    f"the dataset did not arrive within {self._settings.upload_timeout_s:g} s"
                ) from error

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._running >= self._settings.max_uploads:
            raise TooManyJobsError(f"{self._running} datasets are being uploaded already", retry_after_s=10)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _read(self, request: Request) -> Dataset:
        content_type = content_type_of(request)
        if content_type == "multipart/form-data":
            return await self._read_form(request)
        if content_type in (*ARCHIVES, "application/octet-stream") or content_type.startswith("image/"):
            with tempfile.TemporaryFile(dir=scratch_folder(self._settings)) as file:
                async for piece in request.stream():
                    await run_in_threadpool(file.write, piece)
                return await run_in_threadpool(self._ingest, [("upload", file)])
        raise UnsupportedMediaTypeError(
            f"the content type is {content_type[:100]!r}; it may be multipart/form-data, application/json, "
            f"image/*, {', '.join(ARCHIVES)}"
        )

    async def _read_form(self, request: Request) -> Dataset:
        try:
            form = await request.form(max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FILES)
        except HTTPException as error:  # starlette's answer to a form that it cannot parse
            is_long = error.detail.startswith("Too many files")
            advice = f" More than {MAX_FORM_FILES} photos go into a zip." if is_long else ""
            raise InvalidRequestError(f"the form cannot be read: {error.detail}{advice}") from error
        try:
            files = [
                (value.filename or "upload", value.file)
                for _, value in form.multi_items()
                if isinstance(value, UploadFile)
            ]
            return await run_in_threadpool(self._ingest, files)
        finally:
            await form.close()

    def _ingest(self, files: Sequence[NamedFile]) -> Dataset:
        if not files:
            raise InvalidDatasetError("the form has no file; send photos or archives of photos")
        settings = self._settings
        writer = DatasetWriter(self._store, max_items=settings.max_dataset_items)
        limits = UploadLimits(
            max_items=settings.max_dataset_items,
            max_bytes=settings.max_dataset_bytes,
            max_image_bytes=settings.max_image_bytes,
        )
        ingest = Ingest(writer, limits)
        for name, file in files:
            ingest.add_file(name, file)
        return writer.finish()


@contextmanager
def _needing_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("upload_not_spooled", error=str(error))
        raise StoreUnavailableError(
            "the disk that uploads are kept on while they are read is full or cannot be written; "
            "the log of the service has the reason"
        ) from error
