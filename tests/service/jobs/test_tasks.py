"""What a worker's log has of work that has to wait."""

from typing import cast

import structlog

from service.errors import StoreUnavailableError
from service.jobs.chunks import ChunkRunner
from service.jobs.finishing import Finisher
from service.jobs.parts import JobParts
from service.jobs.queue import CAPTION_CHUNK, FINISH_JOB
from service.jobs.tasks import add_tasks
from service.jobs.webhook import WebhookSender


class Away:
    """Work on a store that does not answer."""

    def run(self, *ids: object) -> None:
        raise StoreUnavailableError("no space left")


def test_store_that_is_away_is_one_line_of_the_log(parts: JobParts) -> None:
    add_tasks(
        parts.celery,
        chunks=cast(ChunkRunner, Away()),
        finetunes=None,
        finisher=cast(Finisher, Away()),
        webhooks=WebhookSender(parts.jobs, secret=None, private_allowed=False),
    )
    with structlog.testing.capture_logs() as logged:
        parts.celery.tasks[CAPTION_CHUNK](job_id="job-1", chunk=0)
        parts.celery.tasks[FINISH_JOB](job_id="job-1")
    assert [(line["event"], line["job_id"], line["error"]) for line in logged] == [
        ("not_done", "job-1", "no space left")
    ] * 2
