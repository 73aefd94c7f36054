"""Photos of a dataset through the worker's engine: one result for each, failures among them."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Protocol

from torch import Tensor

from models.generation import OptionError
from models.preprocess import Preprocess
from service.api.caption_json import caption_of, image_info
from service.captioning import service_error
from service.engine.errors import EngineDeadError, EngineError, EngineStoppedError
from service.engine.results import ImageCaptions
from service.errors import (
    InvalidOptionError,
    ModelUnavailableError,
    ServiceError,
    StoreUnavailableError,
    UnknownOptionError,
    UnreadableFileError,
)
from service.images import ImageFacts, ImageLimits, read_pixels
from service.jobs.chunks import Embeddings
from service.jobs.datasets import Datasets
from service.jobs.documents import Dataset, Item, ItemResult
from service.jobs.failures import failed_result
from service.jobs.likeness import Vector, packed
from service.option_reading import options_from_json
from service.reading_ahead import read_ahead
from service.registry import ServedModel
from service.serving import Loaded

Numbered = tuple[int, Item]
Pixels = tuple[Tensor, ImageFacts]


class Models(Protocol):
    """Where the model of a job comes from: service.jobs.worker_models, or a test's own."""

    def serve(self, wanted: str | None) -> Loaded:
        """The version of that id, or the default; raises ModelUnavailableError."""


class ItemCaptioner:
    """The engine with what it needs around it to caption items."""

    def __init__(
        self,
        models: Models,
        datasets: Datasets,
        *,
        limits: ImageLimits,
        decode_threads: int,
    ) -> None:
        self._models = models
        self._datasets = datasets
        self._limits = limits
        self._threads = decode_threads

    def caption(
        self,
        dataset: Dataset,
        items: Iterable[Numbered],
        options: dict[str, Any],
        *,
        embeddings: Embeddings | None = None,
    ) -> Generator[ItemResult, None, None]:
        """A result for each item as it is ready; closing it takes what is in flight out of the engine.

        The options name the version that captions them all; where it cannot be had, or a worker of another
        release does not take the options, every item fails by that.

        Args:
            embeddings: as of service.jobs.chunks.Captions.

        Raises:
            EngineDeadError, EngineStoppedError, StoreUnavailableError: no item is to blame.
        """
        try:
            asked = options_from_json(options)
            loaded = self._models.serve(asked.model)
        except (InvalidOptionError, UnknownOptionError, ModelUnavailableError) as error:
            yield from (failed_result(dataset, number, item, error) for number, item in items)
            return
        run = _Run(self, dataset, loaded.model, embeddings)
        wanted = run.is_wanted if embeddings else None
        with (
            ThreadPoolExecutor(self._threads, thread_name_prefix="semicap-decode") as pool,
            closing(read_ahead(items, run.read, pool=pool, threads=self._threads)) as images,
            closing(loaded.engine.caption_many(run.good(images), asked, wanted=wanted)) as answers,  # type: ignore[type-var]
        ):
            for (number, item), future in answers:
                yield run.result(number, item, future)
                yield from run.take_failures()
            yield from run.take_failures()

    def read(self, dataset: Dataset, item: Item, preprocess: Preprocess) -> Pixels:
        """An item's pixels at a model's size.

        Raises:
            ServiceError: the item is broken, or the store failed.
        """
        try:
            data = self._datasets.read(dataset, item, max_bytes=self._limits.max_bytes)
        except OSError as error:
            raise UnreadableFileError(f"the file cannot be read: {error.strerror or error}") from error
        return read_pixels(data, limits=self._limits, preprocess=preprocess)


class _Run:
    """One call of `caption`: what was read, and what failed while it was."""

    def __init__(
        self, captioner: ItemCaptioner, dataset: Dataset, model: ServedModel, embeddings: Embeddings | None
    ) -> None:
        self._captioner = captioner
        self._model = model
        self._embeddings = embeddings
        self._dataset = dataset
        self._facts: dict[int, ImageFacts] = {}
        self._failed: deque[ItemResult] = deque()

    def is_wanted(self, numbered: Numbered, embedding: Tensor) -> bool:
        return self._embeddings is None or self._embeddings(numbered[0], _vector(embedding))

    def read(self, numbered: Numbered) -> Pixels:
        return self._captioner.read(self._dataset, numbered[1], self._model.captioner.clip.preprocess)

    def good(self, images: Iterable[tuple[Numbered, "Future[Pixels]"]]) -> Iterator[tuple[Numbered, Tensor]]:
        for numbered, future in images:
            number, item = numbered
            try:
                pixels, self._facts[number] = future.result()
            except StoreUnavailableError:
                raise
            except ServiceError as error:
                self._failed.append(failed_result(self._dataset, number, item, error))
            else:
                yield numbered, pixels

    def take_failures(self) -> Iterator[ItemResult]:
        while self._failed:
            yield self._failed.popleft()

    def result(self, number: int, item: Item, future: "Future[ImageCaptions]") -> ItemResult:
        facts = self._facts.pop(number)
        try:
            answer = future.result()
        except (EngineDeadError, EngineStoppedError):
            raise
        except (EngineError, OptionError) as error:
            return failed_result(self._dataset, number, item, service_error(error))
        more: dict[str, Any] = {}
        if self._embeddings is not None and answer.embedding is not None:
            more["embedding"] = packed(_vector(answer.embedding))
        return ItemResult(
            item=number,
            file_name=item.name,
            outcome="captioned",
            captions=[caption_of(scored).model_dump() for scored in answer.captions],
            image=image_info(facts).model_dump(),
            warnings=list(facts.warnings),
            model={"name": self._model.name, "version": self._model.version},
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        )


def _vector(embedding: Tensor) -> Vector:
    vector: Vector = embedding.float().cpu().numpy()
    return vector
