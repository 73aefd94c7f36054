"""Captions for many files: photos read ahead in threads, one engine, every output whole at any moment."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from torch import Tensor

from models.generation import OptionError
from service.api.caption_json import caption_of, image_info
from service.captioning import service_error
from service.engine.engine import Engine
from service.engine.errors import EngineError
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions
from service.errors import ServiceError
from service.images import ImageFacts, ImageLimits, read_pixels
from service.offline.outputs import LostOutputError, Output, OutputError, Record, sidecar_of
from service.reading_ahead import read_ahead
from service.registry import ServedModel


class Listener(Protocol):
    """Who is told of the run's progress."""

    def failed(self, photo: Path, reason: str) -> None:
        """A photo could not be captioned."""

    def advanced(self) -> None:
        """One more photo was captioned or failed."""


@dataclass
class Tally:
    """How a run went."""

    done: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def split_done(photos: Sequence[Path], outputs: Sequence[Output]) -> tuple[list[Path], int]:
    """The photos that an output which remembers still lacks, and how many are done."""
    lasting = [output for output in outputs if output.remembers]
    to_do = [photo for photo in photos if not lasting or not all(output.has(photo) for output in lasting)]
    return to_do, len(photos) - len(to_do)


def shared_sidecars(photos: Sequence[Path]) -> dict[Path, Path]:
    """Photos whose .txt belongs to an earlier photo of the same name (a.png after a.jpg), with that photo."""
    owners: dict[Path, Path] = {}
    clashes = {photo: owners.setdefault(sidecar_of(photo), photo) for photo in photos}
    return {photo: owner for photo, owner in clashes.items() if owner != photo}


class FileCaptioning:
    """Captions photos into every output that lacks them; a bad photo costs only itself."""

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        *,
        limits: ImageLimits,
        decode_threads: int,
        outputs: Sequence[Output],
        listener: Listener,
    ) -> None:
        self.engine = engine
        self.model = model
        self.limits = limits
        self.decode_threads = decode_threads
        self.outputs = outputs
        self.listener = listener
        self.tally = Tally()
        self._facts: dict[Path, ImageFacts] = {}

    def run(self, photos: Sequence[Path], options: CaptionOptions) -> None:
        """Returns when all photos are in `tally`; may be interrupted at any moment without harm."""
        with (
            ThreadPoolExecutor(self.decode_threads, thread_name_prefix="semicap-decode") as pool,
            closing(read_ahead(photos, self.read, pool=pool, threads=self.decode_threads)) as images,
        ):
            for photo, future in self.engine.caption_many(self._good(images), options):
                self._finish(photo, future)

    def read(self, photo: Path) -> tuple[Tensor, ImageFacts]:
        """One photo's pixels at the model's size."""
        with photo.open("rb") as file:
            data = file.read(self.limits.max_bytes + 1)
        return read_pixels(data, limits=self.limits, preprocess=self.model.captioner.clip.preprocess)

    def _good(
        self, images: Iterator[tuple[Path, "Future[tuple[Tensor, ImageFacts]]"]]
    ) -> Iterator[tuple[Path, Tensor]]:
        for photo, future in images:
            try:
                pixels, self._facts[photo] = future.result()
            except (ServiceError, OSError) as error:
                self._fail(photo, error)
            else:
                yield photo, pixels

    def _finish(self, photo: Path, future: "Future[ImageCaptions]") -> None:
        try:
            record = self._record(photo, future.result())
            for output in self.outputs:
                if not output.has(photo):
                    output.write(photo, record)
        except (BrokenPipeError, LostOutputError):
            raise  # who read standard output has gone, or the disk is full
        except (EngineError, OptionError, OutputError, OSError) as error:
            self._fail(photo, error)
        else:
            self.tally.done += 1
            self.listener.advanced()

    def _fail(self, photo: Path, error: Exception) -> None:
        self.tally.failed += 1
        self.listener.failed(photo, _reason(error))
        self.listener.advanced()

    def _record(self, photo: Path, answer: ImageCaptions) -> Record:
        facts = self._facts.pop(photo)
        return {
            "file_name": str(photo),
            "captions": [caption_of(scored).model_dump() for scored in answer.captions],
            "image": image_info(facts).model_dump(),
            "warnings": list(facts.warnings),
            "model": {"name": self.model.name, "version": self.model.version},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _reason(error: Exception) -> str:
    if isinstance(error, EngineError | OptionError):
        return service_error(error).detail
    return (isinstance(error, OSError) and error.strerror) or str(error)
