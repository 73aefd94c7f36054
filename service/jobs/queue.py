"""The queue of the workers: Celery on Redis; a message carries ids, never bytes."""

import json
import ssl
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from service.jobs.board import unavailable
from service.jobs.documents import JobKind

QUEUE = "semicap.chunks"
ENDS_QUEUE = "semicap.ends"
"""Short work at a job's end; workers take turns between the queues, so it need not wait for all chunks."""

FINETUNE_QUEUE = "semicap.finetunes"
"""Long work: a worker that also takes it captions nothing until it is done."""

QUEUES = (ENDS_QUEUE, QUEUE, FINETUNE_QUEUE)

CAPTION_CHUNK = "semicap.caption_chunk"
FINETUNE = "semicap.finetune"
FINISH_JOB = "semicap.finish_job"
DELIVER_WEBHOOK = "semicap.deliver_webhook"

_VISIBILITY_S = 6 * 3600
"""After this Celery hands out again what was not acknowledged; a lost chunk is found by its lease."""

_MOST_LOOKED_AT = 20_000


def make_celery(redis_url: str) -> Celery:
    """The Celery application; it knows the tasks by name only."""
    app = Celery("semicap", broker=_broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_routes={
            **dict.fromkeys((FINISH_JOB, DELIVER_WEBHOOK), ENDS_QUEUE),
            FINETUNE: FINETUNE_QUEUE,
        },
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_detect_quorum_queues=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_S,
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
        },
        enable_utc=True,
    )
    if redis_url.startswith("rediss://"):
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


class JobQueue:
    """Sends work to whichever worker is free."""

    def __init__(self, app: Celery, client: "redis.Redis") -> None:
        self._app = app
        self._client = client

    def send_chunk(self, job_id: str, chunk: int, *, kind: JobKind) -> None:
        """Raises BrokerUnavailableError."""
        task = FINETUNE if kind == "finetune" else CAPTION_CHUNK
        self._send(task, chunk_message(job_id, chunk), {"job_id": job_id, "chunk": chunk})

    def send_finish(self, job_id: str) -> None:
        """Raises BrokerUnavailableError."""
        self._send(FINISH_JOB, finish_message(job_id), {"job_id": job_id})

    def send_webhook(self, job_id: str) -> None:
        """Raises BrokerUnavailableError."""
        self._send(DELIVER_WEBHOOK, webhook_message(job_id), {"job_id": job_id})

    def waiting(self) -> set[str]:
        """Ids of the messages that no worker has taken.

        Raises:
            BrokerUnavailableError: as the others.
        """
        try:
            messages = [
                message
                for queue in QUEUES
                for message in cast(list[str], self._client.lrange(queue, 0, _MOST_LOOKED_AT))
            ]
        except redis.RedisError as error:
            raise unavailable(error) from error
        return {json.loads(message)["headers"]["id"] for message in messages}

    def depth(self) -> int:
        """Messages that no worker has taken."""
        try:
            return sum(self._client.llen(queue) for queue in QUEUES)
        except redis.RedisError as error:
            raise unavailable(error) from error

    def _send(self, name: str, message_id: str, arguments: dict[str, Any]) -> None:
        try:
            self._app.send_task(name, kwargs=arguments, task_id=message_id, retry=False)
        except (OperationalError, redis.RedisError, OSError) as error:
            raise unavailable(error) from error


def chunk_message(job_id: str, chunk: int) -> str:
    """Id of the message that asks for a chunk."""
    return f"{job_id}:{chunk}"


def finish_message(job_id: str) -> str:
    """Id of the message that asks for the end of a job."""
    return f"{job_id}:finish"


def webhook_message(job_id: str) -> str:
    """Id of the message that asks for a webhook."""
    return f"{job_id}:webhook"


def _broker_url(redis_url: str) -> str:
    """kombu's spelling; its unix sockets are redis+socket://[:password@]/path?virtual_host=0."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    user = f"{parts.netloc}" if "@" in parts.netloc else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"
