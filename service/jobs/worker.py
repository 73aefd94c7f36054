"""`semicap worker`: broker, store, what captions, and the work."""

from typing import Literal

from service.jobs.parts import JobParts
from service.jobs.priority import give_way
from service.jobs.working import work
from service.log import configure_logging
from service.metrics import Metrics
from service.settings import Settings

Only = Literal["captions", "finetunes"]


def run_worker(settings: Settings, *, nice: bool, only: Only | None) -> int:
    """Does jobs until a signal comes; the exit status.

    Args:
        nice: leaves the processors to the API, whose callers wait.
        only: the kind of jobs that it takes; None is both, of which one at a time is done.

    Raises:
        CommandError: there is no broker, store, model or device as set.
    """
    configure_logging(level=settings.log_level, format=settings.log_format)
    if nice:
        give_way()
    parts, metrics = JobParts.build(settings), Metrics()
    if only == "finetunes":  # a job trains in a process of its own; until then no torch is needed
        return work(settings, parts, captioner=None, metrics=metrics, takes_finetunes=True)
    from service.jobs.captioning_worker import captioner_of

    with captioner_of(settings, parts, metrics) as captioner:
        return work(settings, parts, captioner=captioner, metrics=metrics, takes_finetunes=only != "captions")
