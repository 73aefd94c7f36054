"""The jobs behind the routes: submission from a request, uploads, events, outputs of ended jobs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Self

from starlette.responses import StreamingResponse

from service.api.finetune_service import FinetuneSubmission
from service.api.job_events import EventStreams
from service.api.job_schemas import CaptionJobRequest
from service.api.job_sources import JobSources
from service.api.queue_look import QueueLook
from service.api.uploading import Uploads
from service.errors import (
    InvalidRequestError,
    JobNotFoundError,
    JobStateError,
    NotFoundError,
)
from service.images import ImageLimits
from service.jobs.archive import JobArchive, output_key
from service.jobs.documents import CaptionJob, Dataset, Job, Webhook, chunk_items_for, now
from service.jobs.events import JobEvents
from service.jobs.idempotency import claimed_job_id
from service.jobs.likeness import MAX_COMPARED
from service.jobs.outputs import CAPTIONS, DUPLICATES, FILES, JSON_LINES, captioned, json_lines
from service.jobs.parts import JobParts
from service.jobs.status import JobStatus
from service.jobs.thumbnails import Thumbnails
from service.jobs.webhook import check_webhook
from service.model_registry import ModelRegistry
from service.model_service import ModelService
from service.option_reading import options_from_json
from service.settings import Settings


class Submission:
    """Makes jobs of requests."""

    def __init__(self, parts: JobParts, sources: JobSources, settings: Settings) -> None:
        self._parts = parts
        self._sources = sources
        self._settings = settings

    def submit(
        self, asked: CaptionJobRequest, *, models: ModelService, idempotency_key: str | None
    ) -> JobStatus:
        """The job of a request, for the version that answers now where it names no other.

        Raises:
            ServiceError: an option, the dataset or the folder is wrong, or there are too many jobs.
        """
        options, current = options_from_json(asked.options), models.switch.current.model
        model = models.find(options.model).id if options.model else current.id
        if model == current.id:  # only a worker has the tokenizer of another version
            current.check_room(options)
        if asked.webhook is not None:
            check_webhook(asked.webhook.url, self._settings)
        jobs, body = self._parts.jobs, asked.model_dump(mode="json")
        with claimed_job_id(jobs.archive, idempotency_key, body) as (job_id, is_there):
            if is_there:
                return jobs.status(job_id)
            return jobs.submit(self._job(job_id, asked, self._dataset(asked), model=model))

    def _dataset(self, asked: CaptionJobRequest) -> Dataset:
        dataset = self._sources.named(asked)
        if asked.write_to_folder and dataset.folder is None:
            raise InvalidRequestError("write_to_folder needs photos in a folder of the server, not an upload")
        if asked.duplicates != "ignore" and dataset.num_items > MAX_COMPARED:
            raise InvalidRequestError(
                f"near-duplicates are looked for among {MAX_COMPARED} photos at most; "
                f"the dataset has {dataset.num_items}"
            )
        return dataset

    def _job(self, job_id: str, asked: CaptionJobRequest, dataset: Dataset, *, model: str) -> CaptionJob:
        return CaptionJob(
            id=job_id,
            created=now(),
            dataset=dataset.id,
            num_items=dataset.num_items,
            chunk_items=chunk_items_for(dataset.num_items, least=self._settings.job_chunk_items),
            options={**asked.options, "model": model},
            outputs=tuple(dict.fromkeys(kind for kind in asked.outputs if kind != "jsonl")),
            writes_to_folder=asked.write_to_folder,
            sidecar=asked.sidecar,
            policy=asked.policy,
            duplicates=asked.duplicates,
            duplicate_similarity=asked.duplicate_similarity,
            webhook=Webhook(url=asked.webhook.url) if asked.webhook else None,
        )


class JobService:
    """What the routes of datasets and jobs use."""

    def __init__(
        self,
        parts: JobParts,
        *,
        sources: JobSources,
        submission: Submission,
        finetunes: FinetuneSubmission,
        uploads: Uploads,
        events: JobEvents,
        thumbnails: Thumbnails,
        queue_look: QueueLook,
        max_streams: int,
    ) -> None:
        self.parts = parts
        self.sources = sources
        self.submission = submission
        self.finetunes = finetunes
        self.uploads = uploads
        self.events = events
        self.thumbnails = thumbnails
        self.queue_look = queue_look
        self.event_streams = EventStreams(max_streams)

    @classmethod
    def build(cls, settings: Settings, *, is_stopping: Callable[[], bool]) -> Self:
        """Raises CommandError, as JobParts.build."""
        parts = JobParts.build(settings)
        sources = JobSources(parts, settings)
        models = ModelRegistry(parts.store, settings.model_cache)
        return cls(
            parts,
            sources=sources,
            submission=Submission(parts, sources, settings),
            finetunes=FinetuneSubmission(parts, sources, models, settings),
            uploads=Uploads(parts.store, settings),
            events=JobEvents(settings.redis_url or "", parts.jobs, is_stopping=is_stopping),
            thumbnails=Thumbnails(
                parts.datasets,
                ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            ),
            queue_look=QueueLook(parts, settings),
            max_streams=settings.max_event_streams,
        )

    @property
    def archive(self) -> JobArchive:
        return self.parts.jobs.archive

    def statuses(self, job_ids: Sequence[str]) -> Iterator[JobStatus]:
        """The status of each job that is there."""
        for job_id in job_ids:
            with suppress(JobNotFoundError):
                yield self.parts.jobs.status(job_id)

    def lines_response(self, job_id: str) -> StreamingResponse:
        """The captions so far; of an ended job as its output has them. Raises JobNotFoundError."""
        jobs = self.parts.jobs
        status = jobs.status(job_id)
        parts = None
        if status.ended is not None:
            parts = self.parts.store.stream(output_key(job_id, status.attempt, CAPTIONS))
        return StreamingResponse(parts or json_lines(captioned(jobs.results(job_id))), media_type=JSON_LINES)

    def output_response(self, job_id: str, output: str) -> StreamingResponse:
        """An output of an ended job.

        Raises:
            JobStateError: the job has not ended.
            NotFoundError: it was not asked for.
        """
        status = self.parts.jobs.status(job_id)
        files = _outputs_of(status.job)
        if output not in files:
            known = ", ".join(("jsonl", *files))
            raise NotFoundError(f"the job has no output {output!r}; it has {known}")
        name, media_type = files[output]
        if status.ended is None:
            raise JobStateError(f"the job is {status.state}; {name} is made when it ends")
        parts = self.parts.store.stream(output_key(job_id, status.attempt, name))
        if parts is None:
            raise NotFoundError(f"{name} is kept no longer (SEMICAP_KEEP_OUTPUTS_DAYS); the results are")
        headers = {"Content-Disposition": f'attachment; filename="{job_id}-{name}"'}
        return StreamingResponse(parts, media_type=media_type, headers=headers)


def _outputs_of(job: Job) -> dict[str, tuple[str, str]]:
    """File name and media type of the outputs that a job has, by what they are called."""
    if not isinstance(job, CaptionJob):
        return {}
    files: dict[str, tuple[str, str]] = {kind: FILES[kind] for kind in job.outputs}
    return files if job.duplicates == "ignore" else files | {"duplicates": (DUPLICATES, JSON_LINES)}
