"""What a worker process does: one Celery worker of one thread, a keeper, metrics of its own."""

import logging
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from celery import signals

from service.finetuning.orders import second_scorer_of, task_of
from service.finetuning.runner import FinetuneRunner
from service.jobs.chunks import Captions, ChunkLimits, ChunkRunner
from service.jobs.finishing import Finisher
from service.jobs.metrics_port import serve_metrics
from service.jobs.parts import JobParts
from service.jobs.queue import ENDS_QUEUE, FINETUNE_QUEUE, QUEUE
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

log = structlog.stdlib.get_logger("semicap.worker")


def work(
    settings: Settings,
    parts: JobParts,
    *,
    captioner: Captions | None,
    metrics: Metrics,
    takes_finetunes: bool = False,
) -> int:
    """Does jobs until a signal comes; the exit status.

    SIGTERM ends the batch in hand, keeps what is captioned and gives the rest of the chunk back; a training
    saves its state and goes back whole.

    Args:
        captioner: None for a worker that captions nothing.

    Raises:
        CommandError: the second scorer is not where it is set to be.
    """
    stopping = threading.Event()
    chunks, finetunes, queues = None, None, [ENDS_QUEUE]
    if captioner is not None:
        queues.append(QUEUE)
        chunks = ChunkRunner(
            captioner,
            datasets=parts.datasets,
            jobs=parts.jobs,
            limits=ChunkLimits(chunk_s=settings.job_chunk_s, save_s=settings.job_save_s),
            metrics=metrics,
            is_stopping=stopping.is_set,
        )
    if takes_finetunes:
        queues.append(FINETUNE_QUEUE)
        finetunes = FinetuneRunner(
            parts.jobs,
            root=settings.finetunes_dir,
            task_for=partial(task_of, settings=settings),
            metrics=metrics,
            is_stopping=stopping.is_set,
        )
        second_scorer_of(settings)  # a wrong setting ends the start, not the first job
    finisher = Finisher(parts.jobs, parts.datasets, max_image_bytes=settings.max_image_bytes)
    webhooks = WebhookSender(
        parts.jobs, secret=settings.webhook_secret, private_allowed=settings.webhook_private
    )
    add_tasks(parts.celery, chunks=chunks, finetunes=finetunes, finisher=finisher, webhooks=webhooks)
    if settings.worker_metrics_port is not None:
        serve_metrics(metrics.registry, host=settings.host, port=settings.worker_metrics_port)
    parts.keeper.start()
    try:
        return _run_celery(parts, stopping, queues)
    finally:
        parts.close()


def _run_celery(parts: JobParts, stopping: threading.Event, queues: Sequence[str]) -> int:
    def stop(**_: Any) -> None:
        stopping.set()

    def keep_logging(**_: Any) -> None:
        """Celery leaves the log alone when somebody answers this signal."""
        for name in _CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    for message in _HARMLESS_WARNINGS:  # the first comes while the worker is made
        warnings.filterwarnings("ignore", message=message)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)
    worker = parts.celery.Worker(
        pool="threads",
        concurrency=1,
        queues=list(queues),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
