"""The photos that a job request names."""

from typing import Protocol

from service.jobs.buckets import allowed_uri, dataset_of_bucket
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
    @property
    def uri(self) -> str | None: ...


class JobSources:
    """Finds the datasets of requests.

    Each method raises ServiceError: there is none, its place is not open to jobs, or it has no photos.
    """

    def __init__(self, parts: JobParts, settings: Settings) -> None:
        self._parts = parts
        self._settings = settings

    def named(self, asked: NamesPhotos) -> Dataset:
        """The dataset that a request names, or a new one of the place that it names."""
        if asked.dataset is None:
            return self.at(folder=asked.folder, uri=asked.uri)
        return self.known(asked.dataset)

    def known(self, dataset_id: str) -> Dataset:
        """A dataset by its id, if jobs may still use the place where its photos are."""
        dataset = self._parts.datasets.get(dataset_id)
        if dataset.folder is not None:
            allowed_folder(dataset.folder, self._settings.dataset_roots)
        if dataset.uri is not None:
            allowed_uri(dataset.uri, self._settings.dataset_buckets)
        return dataset

    def at(self, *, folder: str | None, uri: str | None) -> Dataset:
        """A dataset of photos that stay where they are."""
        store, settings = self._parts.store, self._settings
        most = settings.max_dataset_items
        if uri is not None:
            return dataset_of_bucket(uri, store=store, roots=settings.dataset_buckets, max_items=most)
        return dataset_of_folder(folder or "", store=store, roots=settings.dataset_roots, max_items=most)
