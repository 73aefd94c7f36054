"""The Celery tasks: each hands its ids to the part that does the work."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from celery import Celery

from service.errors import ServiceError
from service.finetuning.runner import FinetuneRunner
from service.jobs.chunks import ChunkRunner
from service.jobs.finishing import Finisher
from service.jobs.queue import CAPTION_CHUNK, DELIVER_WEBHOOK, FINETUNE, FINISH_JOB
from service.jobs.webhook import WebhookSender

log = structlog.stdlib.get_logger("semicap.worker")


def add_tasks(
    app: Celery,
    *,
    chunks: ChunkRunner | None,
    finetunes: FinetuneRunner | None,
    finisher: Finisher,
    webhooks: WebhookSender,
) -> None:
    """Teaches a worker's application what to do.

    Args:
        chunks, finetunes: None in a worker that does not take them.
    """
    if chunks is not None:

        @app.task(name=CAPTION_CHUNK)  # type: ignore[untyped-decorator]
        def caption_chunk(job_id: str, chunk: int) -> None:
            with _asked_again(job_id):
                chunks.run(job_id, chunk)

    if finetunes is not None:

        @app.task(name=FINETUNE)  # type: ignore[untyped-decorator]
        def finetune(job_id: str, chunk: int) -> None:
            with _asked_again(job_id):
                finetunes.run(job_id, chunk)

    @app.task(name=FINISH_JOB)  # type: ignore[untyped-decorator]
    def finish_job(job_id: str) -> None:
        with _asked_again(job_id):
            finisher.run(job_id)

    @app.task(name=DELIVER_WEBHOOK)  # type: ignore[untyped-decorator]
    def deliver_webhook(job_id: str) -> None:
        webhooks.begin(job_id)


@contextmanager
def _asked_again(job_id: str) -> Iterator[None]:
    """A store or broker that is away is one line in the log; the keeper asks again for what is not done."""
    try:
        yield
    except ServiceError as error:
        log.warning("not_done", job_id=job_id, error=error.detail)
