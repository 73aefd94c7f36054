"""Small pictures of a dataset's photos, for people who look at results."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from PIL import Image

from service.errors import NotFoundError, TooManyJobsError
from service.images import ImageLimits, read_image
from service.jobs.datasets import Datasets
from service.jobs.documents import Dataset

EDGE = 480
"""Pixels of the longer edge, enough for 240 on a screen of double density."""

MAX_WAITING = 64
_QUALITY = 82


class Thumbnails:
    """Makes thumbnails one at a time: each may take as much memory as the largest photo."""

    def __init__(self, datasets: Datasets, limits: ImageLimits) -> None:
        self._datasets = datasets
        self._limits = limits
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="semicap-thumbnail")
        self._waiting = 0

    async def make(self, dataset: Dataset, number: int) -> bytes:
        """The JPEG of one photo.

        Raises:
            ServiceError: there is no such photo, it cannot be read, or too many wait for theirs.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyJobsError(f"{self._waiting} thumbnails are being made already", retry_after_s=2)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._make, dataset, number)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, dataset: Dataset, number: int) -> bytes:
        picture, _ = read_image(self._read(dataset, number), limits=self._limits, needed_edge=EDGE)
        picture.thumbnail((EDGE, EDGE), Image.Resampling.BICUBIC)
        file = BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def _read(self, dataset: Dataset, number: int) -> bytes:
        if number >= dataset.num_items:
            raise NotFoundError(
                f"the dataset {dataset.id} has {dataset.num_items} photos, so none with the number {number}"
            )
        ((_, item),) = self._datasets.items(dataset.id, [number])
        try:
            return self._datasets.read(dataset, item, max_bytes=self._limits.max_bytes)
        except OSError as error:
            raise NotFoundError(f"the photo {item.name} is not in its folder any more") from error
