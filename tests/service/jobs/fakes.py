"""A captioner without a network, and a worker without Celery: the rest of the jobs is real."""

import base64
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from service.engine.engine import Engine, EngineSettings
from service.errors import BrokenImageError, PhotoLostError
from service.jobs.chunks import Captions, ChunkLimits, ChunkRunner, Embeddings
from service.jobs.datasets import Datasets
from service.jobs.documents import Dataset, Item, ItemResult
from service.jobs.failures import failed_result
from service.jobs.finishing import Finisher
from service.jobs.parts import JobParts
from service.jobs.queue import CAPTION_CHUNK, ENDS_QUEUE, QUEUE
from service.jobs.worker_models import WorkerModels
from service.metrics import Metrics
from service.model_choice import Choice
from service.model_registry import ModelRegistry
from service.registry import ServedModel
from service.serving import Loaded

MAX_BYTES = 1024 * 1024
MODEL = {"name": "fake", "version": "1"}


@dataclass(frozen=True)
class OneModel:
    """One version, whatever a job asks for."""

    loaded: Loaded

    def serve(self, wanted: str | None) -> Loaded:
        return self.loaded


class FakeCaptions:
    """Reads and opens every photo as the real one does; its caption names the photo's size.

    Args:
        item_s: what one photo takes, in seconds.
        on_item: called before each photo.
    """

    def __init__(
        self,
        datasets: Datasets,
        *,
        item_s: float = 0.0,
        on_item: Callable[[int], object] = lambda number: None,
    ) -> None:
        self._datasets = datasets
        self._item_s = item_s
        self._on_item = on_item
        self.done: list[int] = []

    def caption(
        self,
        dataset: Dataset,
        items: Iterator[tuple[int, Item]],
        options: dict[str, Any],
        *,
        embeddings: Embeddings | None = None,
    ) -> Generator[ItemResult, None, None]:
        for number, item in items:
            self._on_item(number)
            time.sleep(self._item_s)
            self.done.append(number)
            yield self._result(dataset, number, item)

    def _result(self, dataset: Dataset, number: int, item: Item) -> ItemResult:
        try:
            with Image.open(BytesIO(self._datasets.read(dataset, item, max_bytes=MAX_BYTES))) as image:
                image.load()
                text = f"a picture of {image.width} by {image.height}"
        except PhotoLostError as error:
            return failed_result(dataset, number, item, error)
        except OSError as error:
            return failed_result(dataset, number, item, BrokenImageError(f"cannot be read: {error}"))
        more: dict[str, Any] = {
            "captions": [{"text": text, "clip_similarity": 0.3, "clip_score": 0.75, "log_likelihood": -1.0}],
            "image": {"width": image.width, "height": image.height, "format": "JPEG", "sha256": ""},
            "warnings": [],
            "model": MODEL,
            "date": "2026-01-01T00:00:00+00:00",
        }
        return ItemResult(item=number, file_name=item.name, outcome="captioned", **more)


class InlineWorker:
    """Takes messages off the real queue and does them in the test's own thread."""

    def __init__(
        self,
        parts: JobParts,
        captions: FakeCaptions | None = None,
        *,
        captioner: Captions | None = None,
        chunk_s: float = 60.0,
        save_s: float = 0.0,
    ) -> None:
        self.stopping = threading.Event()
        self.captions = captions or FakeCaptions(parts.datasets)
        self._client = parts.jobs.board.client
        self._chunks = ChunkRunner(
            captioner or self.captions,
            datasets=parts.datasets,
            jobs=parts.jobs,
            limits=ChunkLimits(chunk_s=chunk_s, save_s=save_s),
            metrics=Metrics(),
            is_stopping=self.stopping.is_set,
        )
        self._finisher = Finisher(parts.jobs, parts.datasets, max_image_bytes=MAX_BYTES)

    def do_one(self) -> bool:
        """Does the oldest message; False when there is none."""
        message: Any = self._client.rpop(ENDS_QUEUE) or self._client.rpop(QUEUE)
        if message is None:
            return False
        envelope = json.loads(message)
        arguments = json.loads(base64.b64decode(envelope["body"]))[1]
        if envelope["headers"]["task"] == CAPTION_CHUNK:
            self._chunks.run(**arguments)
        else:
            self._finisher.run(**arguments)
        return True

    def do_all(self) -> None:
        """Until the queue is empty."""
        while self.do_one():
            pass


@contextmanager
def worker_models(parts: JobParts, default: Choice) -> Iterator[WorkerModels]:
    """A worker's models, at full precision."""

    def start(model: ServedModel, before: Loaded | None = None) -> Engine:
        engine = Engine(model.captioner, settings=EngineSettings(precision="fp32"))
        engine.start()
        return engine

    first = default.load(device="cpu")
    models = WorkerModels(
        ModelRegistry(parts.store, Path("no-cache")),
        default=default,
        first=Loaded(first, start(first)),
        start=start,
        device="cpu",
    )
    try:
        yield models
    finally:
        models.stop()
