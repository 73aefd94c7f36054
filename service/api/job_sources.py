"""The photos that a job request names."""

from typing import Protocol

from service.jobs.documents import Dataset
from service.jobs.folders import allowed_folder, dataset_of_folder
from service.jobs.parts import JobParts
from service.settings import Settings


class NamesPhotos(Protocol):
    """A request with exactly one of these."""

    @property
    def dataset(self) -> str | None: ...
    @property
    def folder(self) -> str | None: ...


def dataset_named(asked: NamesPhotos, parts: JobParts, settings: Settings) -> Dataset:
    """The dataset that a request names, or a new one of the folder that it names.

    Raises:
        ServiceError: there is none, or the folder may not be used.
    """
    if asked.folder is not None:
        return dataset_of_folder(
            asked.folder,
            store=parts.store,
            roots=settings.dataset_roots,
            max_items=settings.max_dataset_items,
        )
    return known_dataset(asked.dataset or "", parts, settings)


def known_dataset(dataset_id: str, parts: JobParts, settings: Settings) -> Dataset:
    """A dataset by its id, if jobs may still use its folder. Raises as dataset_named."""
    dataset = parts.datasets.get(dataset_id)
    if dataset.folder is not None:
        allowed_folder(dataset.folder, settings.dataset_roots)
    return dataset
