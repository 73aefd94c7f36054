"""What a worker process does: one Celery worker of one thread, a keeper, metrics of its own."""

import logging
import threading
import warnings
from typing import Any

from celery import signals

from service.jobs.chunks import Captions, ChunkLimits, ChunkRunner
from service.jobs.finishing import Finisher
from service.jobs.metrics_port import serve_metrics
from service.jobs.parts import JobParts
from service.jobs.queue import QUEUES
from service.jobs.tasks import add_tasks
from service.jobs.webhook import WebhookSender
from service.metrics import Metrics
from service.settings import Settings

_HARMLESS_WARNINGS = (
    "You're running the worker with superuser privileges",  # dangerous with pickle, which is not accepted
    "(?s).*In Celery 5.1 we introduced an optional breaking change",  # a chunk's end is in the store
)
_CHATTY_LOGGERS = ("celery.worker.strategy", "celery.app.trace")
"""They tell every message; service.jobs.chunks tells what came of it."""


def work(settings: Settings, parts: JobParts, *, captioner: Captions, metrics: Metrics) -> int:
    """Does jobs until a signal comes; the exit status.

    SIGTERM ends the batch in hand, keeps what is captioned and gives the rest of the chunk back.
    """
    stopping = threading.Event()
    chunks = ChunkRunner(
        captioner,
        datasets=parts.datasets,
        jobs=parts.jobs,
        limits=ChunkLimits(chunk_s=settings.job_chunk_s, save_s=settings.job_save_s),
        metrics=metrics,
        is_stopping=stopping.is_set,
    )
    finisher = Finisher(parts.jobs, parts.datasets, max_image_bytes=settings.max_image_bytes)
    webhooks = WebhookSender(
        parts.jobs, secret=settings.webhook_secret, private_allowed=settings.webhook_private
    )
    add_tasks(parts.celery, chunks, finisher, webhooks)
    if settings.worker_metrics_port is not None:
        serve_metrics(metrics.registry, host=settings.host, port=settings.worker_metrics_port)
    parts.keeper.start()
    try:
        return _run_celery(parts, stopping)
    finally:
        parts.keeper.stop()


def _run_celery(parts: JobParts, stopping: threading.Event) -> int:
    def stop(**_: Any) -> None:
        stopping.set()

    def keep_logging(**_: Any) -> None:
        """Celery leaves the log alone when somebody answers this signal."""
        for name in _CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for message in _HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=message)

    signals.worker_shutting_down.connect(stop, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)
    worker = parts.celery.Worker(
        pool="threads",
        concurrency=1,
        queues=QUEUES,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
