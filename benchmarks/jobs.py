"""What a job of a running service costs beside the bare engine: `python -m benchmarks.jobs PHOTOS`.

In turns, on the same photos: straight from the files through an engine in this process, as `semicap caption`
does (the service idles meanwhile), and as a zip through broker, worker and store of a `semicap serve`. Prints
images/s, the ratio of the times, and that of the processor seconds (of all the service's processes), which
others on the machine disturb less. Every photo must have exactly one line.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from benchmarks.overload import Service
from models.manifest import DEFAULT_CHECKPOINT
from service.engine.engine import Engine
from service.engine.options import CaptionOptions
from service.engine.settings import EngineSettings
from service.images import ImageLimits
from service.offline.caption_files import FileCaptioning
from service.offline.outputs import JsonLinesFile
from service.registry import ServedModel, load_served_model

POLL_S = 1.0
DECODE_THREADS = 2
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Both ways on each slice, the service's first on every second one."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the service ends with this process
    photos = sorted(arguments.photos.glob("*.jpg"))[: arguments.count]
    size = -(-len(photos) // arguments.slices)
    columns = ("photos", "files, images/s", "job, images/s", "files / job, time", "processor")
    table = Table(*columns, box=None)
    model = load_served_model(DEFAULT_CHECKPOINT, device="cpu")
    engine = Engine(model.captioner, settings=EngineSettings(precision=arguments.precision))
    limits = ImageLimits(max_bytes=10**8, max_pixels=10**8)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), {"SEMICAP_PRECISION": arguments.precision})
        try:
            _job(service, photos[:8])  # waits until the worker has loaded and warmed up its model
            engine.start()
            for number in range(arguments.slices):
                some = photos[number * size : (number + 1) * size]
                spent: dict[str, Spent] = {}
                for way in ("files", "job") if number % 2 == 0 else ("job", "files"):
                    if way == "files":
                        output = Path(folder) / f"{number}.jsonl"
                        spent[way] = _caption_files(engine, model, limits, some, output)
                    else:
                        spent[way] = _job(service, some)
                files, job = spent["files"], spent["job"]
                table.add_row(
                    str(len(some)),
                    *(f"{len(some) / one.wall_s:.1f}" for one in (files, job)),
                    f"{files.wall_s / job.wall_s:.3f}",
                    f"{files.processor_s / job.processor_s:.3f}",
                )
        finally:
            service.process.terminate()
            service.process.wait()
    engine.stop(drain_s=0)
    Console().print(
        f"{model.name} {model.version}, {arguments.precision}, {os.cpu_count()} processors", table
    )


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


class _Silent:
    def failed(self, photo: Path, reason: str) -> None:
        raise SystemExit(f"{photo}: {reason}")

    def advanced(self) -> None:
        pass


def _caption_files(
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
        listener=_Silent(),
    ).run(photos, CaptionOptions())
    return began.until_now()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "int8"), default="auto")
    return parser.parse_args()


def _job(service: Service, photos: Sequence[Path]) -> Spent:
    """From the submission to the end, as the service has them; the upload came before."""
    dataset = _ask(service, "/v1/datasets", _zip(photos), "application/zip")
    if dataset["items"] != len(photos):
        raise SystemExit(f"{dataset['items']} of {len(photos)} photos were taken")
    before = _processor_s(service)
    asked = json.dumps({"dataset": dataset["id"]}).encode()
    job = _ask(service, "/v1/jobs/captions", asked, "application/json")
    address = f"/v1/jobs/{job['id']}"
    while (ended := _ask(service, address))["ended"] is None:
        time.sleep(POLL_S)
    processor_s = _processor_s(service) - before
    lines = Counter(
        json.loads(line)["file_name"]
        for kind in ("results", "errors")
        for line in _read(service, f"{address}/{kind}").splitlines()
    )
    if lines != Counter({photo.name: 1 for photo in photos}):
        raise SystemExit(f"not every photo has exactly one line: {len(lines)} names, {lines.total()} lines")
    created, finished = (datetime.fromisoformat(ended[name]) for name in ("created", "ended"))
    return Spent((finished - created).total_seconds(), processor_s)


def _zip(photos: Sequence[Path]) -> bytes:
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for photo in photos:
                archive.write(photo, photo.name)
        file.seek(0)
        return file.read()


def _ask(service: Service, path: str, body: bytes | None = None, content_type: str = "") -> Any:
    return json.loads(_read(service, path, body, content_type))


def _read(service: Service, path: str, body: bytes | None = None, content_type: str = "") -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}", data=body, headers={"Content-Type": content_type}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        data: bytes = answer.read()
        return data


def _processor_s(service: Service) -> float:
    """Of the processes that run, user's and system's."""
    pid = service.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in (pid, *children)]
    return sum(int(user) + int(system) for *_, user, system in (one[:13] for one in fields)) / _TICKS_A_SECOND


if __name__ == "__main__":
    main()
