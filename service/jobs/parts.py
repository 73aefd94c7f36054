"""The parts of the jobs, put together for the API, the worker and the command line."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from celery import Celery

from service.errors import CommandError
from service.jobs.archive import JobArchive
from service.jobs.board import Board
from service.jobs.datasets import Datasets
from service.jobs.jobs import Jobs
from service.jobs.keeper import Keeper
from service.jobs.queue import JobQueue, make_celery
from service.jobs.retention import Keep, Retention
from service.jobs.store import ArtifactStore
from service.settings import Settings


@dataclass(frozen=True)
class JobParts:
    """Store, datasets, jobs, and Celery's application."""

    store: ArtifactStore
    datasets: Datasets
    jobs: Jobs
    keeper: Keeper
    celery: Celery

    @classmethod
    def build(cls, settings: Settings) -> Self:
        """Raises CommandError: there is no broker, or no store."""
        if settings.redis_url is None:
            raise CommandError(
                "there is no broker: set SEMICAP_REDIS_URL, or run semicap serve, which has one of its own"
            )
        store = ArtifactStore.open(settings.store_location)
        celery = make_celery(settings.redis_url)
        board = Board.open(settings.redis_url)
        jobs = Jobs(
            JobArchive(store), board, JobQueue(celery, board.client), max_active=settings.max_active_jobs
        )
        keep = Keep(
            outputs=_days(settings.keep_outputs_days),
            jobs=_days(settings.keep_jobs_days),
            datasets=_days(settings.keep_datasets_days),
        )
        datasets = Datasets(store)
        keeper = Keeper(jobs, Retention(jobs.archive, datasets, keep))
        return cls(store, datasets, jobs, keeper, celery)

    def close(self) -> None:
        """Lets go of the broker."""
        self.keeper.stop()
        self.celery.close()
        self.jobs.board.client.close()


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)
