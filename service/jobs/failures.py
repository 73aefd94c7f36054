"""Error lines: what failed, why, and whether another try may help."""

from collections.abc import Callable
from typing import Any

from service.errors import ServiceError
from service.jobs.datasets import Datasets, fingerprint
from service.jobs.documents import Dataset, Item, ItemResult, Job
from service.problems import problem_of

_OUR_FAULT = 500
"""Statuses from here on are the service's fault, not the photo's."""


def failed_result(dataset: Dataset, number: int, item: Item, error: ServiceError) -> ItemResult:
    """The error line of an item, with what its file looked like: a retry sees whether it has changed."""
    more: dict[str, Any] = {"problem": problem_of(error).model_dump(), "file": fingerprint(dataset, item)}
    return ItemResult(item=number, file_name=item.name, outcome="failed", **more)


def worth_retrying(datasets: Datasets, job: Job) -> Callable[[ItemResult], bool]:
    """Says of a failed item whether it may succeed now: the service was to blame, or its file has changed."""
    dataset = datasets.get(job.dataset)

    def is_worth_it(result: ItemResult) -> bool:
        fields = result.model_dump()
        if fields["problem"]["status"] >= _OUR_FAULT:
            return True
        ((_, item),) = datasets.items(dataset.id, [result.item])
        return bool(datasets.fingerprint_now(dataset, item) != fields["file"])

    return is_worth_it
