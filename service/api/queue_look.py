"""What a scrape of the metrics sees of the jobs: the part of the store and the part of the broker."""

from contextlib import suppress
from math import nan

from service.errors import BrokerUnavailableError, ServiceError
from service.jobs.board import Board
from service.jobs.jobs import Jobs
from service.jobs.parts import JobParts
from service.jobs.queue import JobQueue
from service.metrics import Metrics
from service.settings import Settings

LIMIT_S = 1.0
"""For one answer of the broker: Prometheus gives a scrape 10 s, then everything looks down."""


class QueueLook:
    """Asks store and broker how much there is to do, the broker on a connection of its own."""

    def __init__(self, parts: JobParts, settings: Settings) -> None:
        self._archive = parts.jobs.archive
        board = Board.open(settings.redis_url or "", connect_s=LIMIT_S, answer_s=LIMIT_S)
        queue = JobQueue(parts.celery, board.client)
        self._jobs = Jobs(self._archive, board, queue, max_active=settings.max_active_jobs)

    def observe(self, metrics: Metrics) -> None:
        """States it in the metrics; what cannot be known now is not a number."""
        active: list[str] | None = None
        with suppress(ServiceError):
            active = self._archive.active()
        metrics.jobs_active.set(nan if active is None else len(active))
        try:
            depth = self._jobs.queue.depth()
            metrics.set_job_queue(depth=depth, oldest_s=self._oldest_s(active))
        except BrokerUnavailableError:
            metrics.broker_away()

    def _oldest_s(self, active: list[str] | None) -> float:
        try:
            return nan if active is None else self._jobs.oldest_s(active)
        except BrokerUnavailableError:
            raise
        except ServiceError:  # a job that was deleted meanwhile, or a store that is away
            return nan
