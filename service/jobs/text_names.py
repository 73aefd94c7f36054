"""What the texts that belong to photos are called: no two photos of a dataset share one."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import PurePosixPath

from service.jobs.datasets import Datasets
from service.jobs.documents import Item

_CACHED_DATASETS = 4


class TextNames:
    """Names without a suffix: of the first photo of a stem the stem, of each other its whole name.

    They go by the order of the dataset, not by what was captioned: a retry finds the same ones. Upper and
    lower case are one, as they are on some disks where an archive is unpacked.
    """

    def __init__(self, items: Iterable[tuple[int, Item]]) -> None:
        taken = set[str]()
        self._others: dict[int, str] = {}
        for number, item in items:
            stem = _stem(number, item.name)
            name = next(one for one in _candidates(stem, item.name) if one.casefold() not in taken)
            taken.add(name.casefold())
            if name != stem:
                self._others[number] = name

    def of(self, number: int, file_name: str) -> str:
        """The name for an item's text, with its folders."""
        return self._others.get(number) or _stem(number, file_name)


TextNamesOf = Callable[[str], TextNames]
"""Gives the names of a dataset by its id."""


def text_names_of(datasets: Datasets) -> TextNamesOf:
    """Reads a dataset's items once; the names of the last few datasets are kept."""

    @lru_cache(maxsize=_CACHED_DATASETS)
    def names(dataset_id: str) -> TextNames:
        return TextNames(datasets.items(dataset_id, range(datasets.get(dataset_id).num_items)))

    return names


def _stem(number: int, file_name: str) -> str:
    path = PurePosixPath(file_name)
    return str(path.with_suffix("")) if path.name else f"{number:08d}"  # an upload may be called "."


def _candidates(stem: str, file_name: str) -> Iterator[str]:
    whole = str(PurePosixPath(file_name))
    yield stem
    yield whole
    yield from (f"{whole}.{number}" for number in count(2))
