"""The Celery tasks: each hands its ids to the part that does the work."""

from celery import Celery

from service.jobs.chunks import ChunkRunner
from service.jobs.finishing import Finisher
from service.jobs.queue import CAPTION_CHUNK, FINISH_JOB


def add_tasks(app: Celery, chunks: ChunkRunner, finisher: Finisher) -> None:
    """Teaches a worker's application what to do."""

    @app.task(name=CAPTION_CHUNK)  # type: ignore[untyped-decorator]
    def caption_chunk(job_id: str, chunk: int) -> None:
        chunks.run(job_id, chunk)

    @app.task(name=FINISH_JOB)  # type: ignore[untyped-decorator]
    def finish_job(job_id: str) -> None:
        finisher.run(job_id)
