"""What a job costs beside the bare engine: `python -m benchmarks.jobs PHOTOS [--count 768] [--slices 3]`.

The same photos, the same engine, in turns: straight from the files as `semicap caption` does, and as a job on
an uploaded dataset, through broker, store and chunks to its outputs. Prints images/s, and within each slice
the ratio of the times and of the processor seconds, which others on the machine disturb less.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from models.manifest import DEFAULT_CHECKPOINT
from service.engine.engine import Engine
from service.engine.options import CaptionOptions
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.chunks import ChunkLimits, ChunkRunner
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import CaptionJob, new_id, now
from service.jobs.finishing import Finisher
from service.jobs.parts import JobParts
from service.metrics import Metrics
from service.offline.caption_files import FileCaptioning
from service.offline.outputs import JsonLinesFile
from service.registry import ServedModel, load_served_model
from service.serving import Loaded
from service.settings import Settings
from service.supervision.broker import embedded_broker
from service.supervision.child import Child

DECODE_THREADS = 2


@dataclass(frozen=True)
class _OneModel:
    """The model of every job."""

    loaded: Loaded

    def serve(self, wanted: str | None) -> Loaded:
        return self.loaded


def main() -> None:
    """Runs both ways on each slice of the photos."""
    arguments = _arguments()
    photos = sorted(arguments.photos.glob("*.jpg"))[: arguments.count]
    model = load_served_model(arguments.checkpoint, device="cpu")
    engine = Engine(model.captioner)
    engine.start()
    table = Table("photos", "files, images/s", "job, images/s", "files / job, time", "processor", box=None)
    console = Console()
    size = -(-len(photos) // arguments.slices)
    limits = ImageLimits(max_bytes=10**8, max_pixels=10**8)
    with tempfile.TemporaryDirectory() as folder, _broker(Path(folder) / "broker") as url:
        parts = JobParts.build(Settings(data_dir=Path(folder), redis_url=url))
        for number in range(arguments.slices):
            some = photos[number * size : (number + 1) * size]
            output = Path(folder) / f"{number}.jsonl"
            by_files = by_job = Spent(0.0, 0.0)
            for way in ("files", "job") if number % 2 == 0 else ("job", "files"):
                if way == "files":
                    by_files = caption_files(engine, model, limits, some, output)
                else:
                    by_job = _job(engine, model, limits, some, parts, chunk_items=arguments.chunk)
            table.add_row(
                str(len(some)),
                *(f"{len(some) / spent.wall_s:.1f}" for spent in (by_files, by_job)),
                f"{by_files.wall_s / by_job.wall_s:.3f}",
                f"{by_files.processor_s / by_job.processor_s:.3f}",
            )
        parts.close()
    engine.stop(drain_s=0)
    console.print(f"{model.name} {model.version}, {os.cpu_count()} processors", table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--count", type=int, default=768)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=Settings().job_chunk_items, help="photos of one chunk")
    return parser.parse_args()


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    lifeline, held = os.pipe()
    with embedded_broker(folder) as (program, url):
        child = Child(program, lifeline=lifeline)
        child.tend()
        try:
            yield url
        finally:
            child.kill()
            os.close(held)
            os.close(lifeline)


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of the processors."""

    wall_s: float
    processor_s: float

    @classmethod
    def now(cls) -> Self:
        return cls(time.perf_counter(), time.process_time())

    def until_now(self) -> "Spent":
        now = Spent.now()
        return Spent(now.wall_s - self.wall_s, now.processor_s - self.processor_s)


class Silent:
    def failed(self, photo: Path, reason: str) -> None:
        raise SystemExit(f"{photo}: {reason}")

    def advanced(self) -> None:
        pass


def caption_files(
    engine: Engine, model: ServedModel, limits: ImageLimits, photos: Sequence[Path], output: Path
) -> Spent:
    """As `semicap caption` does, into one file of JSON lines."""
    began = Spent.now()
    FileCaptioning(
        engine,
        model,
        limits=limits,
        decode_threads=DECODE_THREADS,
        outputs=[JsonLinesFile(output)],
        listener=Silent(),
    ).run(photos, CaptionOptions())
    return began.until_now()


def _job(
    engine: Engine,
    model: ServedModel,
    limits: ImageLimits,
    photos: Sequence[Path],
    parts: JobParts,
    *,
    chunk_items: int,
) -> Spent:
    """From the submission to the outcome; the upload came before."""
    settings = Settings()
    writer = DatasetWriter(parts.store, max_items=len(photos))
    for photo in photos:
        writer.add_photo(photo.name, photo.read_bytes())
    dataset = writer.finish()
    runner = ChunkRunner(
        ItemCaptioner(
            _OneModel(Loaded(model, engine)), parts.datasets, limits=limits, decode_threads=DECODE_THREADS
        ),
        datasets=parts.datasets,
        jobs=parts.jobs,
        limits=ChunkLimits(chunk_s=settings.job_chunk_s, save_s=settings.job_save_s),
        metrics=Metrics(),
        is_stopping=lambda: False,
    )
    job = CaptionJob(
        id=new_id("job"),
        created=now(),
        dataset=dataset.id,
        num_items=dataset.num_items,
        chunk_items=chunk_items,
    )
    began = Spent.now()
    parts.jobs.submit(job)
    while parts.jobs.board.sent(job.id):
        for chunk in sorted(parts.jobs.board.sent(job.id)):
            runner.run(job.id, chunk)
    Finisher(parts.jobs, parts.datasets, max_image_bytes=10**8).run(job.id)
    spent = began.until_now()
    counts = parts.jobs.status(job.id).counts
    if counts.done != len(photos):
        raise SystemExit(f"{counts.done} of {len(photos)} photos were captioned")
    return spent


if __name__ == "__main__":
    main()
