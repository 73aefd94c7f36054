"""Real workers that share a job: one joins, one leaves in the middle; captions are those of one engine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine.engine import Engine
from service.engine.settings import EngineSettings
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.datasets import DatasetWriter
from service.jobs.outputs import captioned
from service.jobs.parts import JobParts
from service.registry import ServedModel
from service.serving import Loaded
from service.settings import Settings
from tests.service import pictures
from tests.service.jobs.broker import RunningBroker, running_broker
from tests.service.jobs.conftest import job_on
from tests.service.jobs.fakes import InlineWorker, OneModel

WAIT_S = 600
PHOTOS = 64
OPTIONS = {"strategy": "beam", "num_beams": 4, "num_captions": 2}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Worker:
    """A `semicap worker` with metrics on a port of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "worker"],
                stderr=file,
                env={**os.environ, **environment, "SEMICAP_WORKER_METRICS_PORT": str(self._port)},
            )

    def metrics(self) -> str:
        """What Prometheus scrapes; empty while the worker is not there."""
        assert self.process.poll() is None, self._log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def captioned(self) -> int:
        found = re.search(r'semicap_job_items_total\{outcome="captioned"\} ([\d.]+)', self.metrics())
        return int(float(found[1])) if found else 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with running_broker(tmp_path / "broker") as broker:
        yield broker


def test_worker_joins_and_another_leaves_and_no_caption_changes(
    broker: RunningBroker, tiny_checkpoint: Path, tiny_model: ServedModel, tmp_path: Path
) -> None:
    parts = JobParts.build(Settings(data_dir=tmp_path / "data", redis_url=broker.url))
    writer = DatasetWriter(parts.store, max_items=1000)
    for number, data in enumerate(pictures.photos(PHOTOS)):
        writer.add_photo(f"{number:04d}.jpg", data)
    dataset = writer.finish()
    alone, shared = (job_on(dataset, chunk_items=4, options=OPTIONS) for _ in range(2))
    parts.jobs.submit(alone)
    _do_alone(parts, tiny_model)

    environment = {
        "SEMICAP_REDIS_URL": broker.url,
        "SEMICAP_DATA_DIR": str(tmp_path / "data"),
        "SEMICAP_CHECKPOINT": str(tiny_checkpoint),
        "SEMICAP_PRECISION": "fp32",
        "SEMICAP_JOB_SAVE_S": "0",
    }
    parts.jobs.submit(shared)
    first = Worker(environment, tmp_path / "first.log")
    second = None
    try:
        wait_for(lambda: first.captioned() > 0)
        parts.jobs.pause(shared.id)
        second = Worker(environment, tmp_path / "second.log")
        wait_for(lambda: bool(second.metrics()))
        resting = parts.jobs.status(shared.id)
        assert (resting.state, 0 < resting.counts.done < PHOTOS) == ("paused", True)
        parts.jobs.resume(shared.id)
        wait_for(lambda: second.captioned() > 0)
        by_first = first.metrics()
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(WAIT_S) == 0
        wait_for(lambda: parts.jobs.status(shared.id).ended is not None)
        by_second = second.metrics()
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(WAIT_S) == 0
    finally:
        for worker in (first, second):
            if worker is not None:
                worker.process.kill()
                worker.process.wait()

    status = parts.jobs.status(shared.id)
    assert (status.state, status.counts.done) == ("succeeded", PHOTOS)
    assert _captions(parts, shared.id) == _captions(parts, alone.id)
    for text in (by_first, by_second):
        assert 'semicap_job_chunk_seconds_count{ending="complete"}' in text
        assert "semicap_model_info" in text
        assert "process_resident_memory_bytes" in text
    parts.close()


def _do_alone(parts: JobParts, model: ServedModel) -> None:
    engine = Engine(model.captioner, settings=EngineSettings(precision="fp32"))
    engine.start()
    try:
        limits = ImageLimits(max_bytes=10**7, max_pixels=10**7)
        captioner = ItemCaptioner(
            OneModel(Loaded(model, engine)), parts.datasets, limits=limits, decode_threads=1
        )
        InlineWorker(parts, captioner=captioner).do_all()
    finally:
        engine.stop(drain_s=0)


def _captions(parts: JobParts, job_id: str) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Every caption of every photo, with its score to three digits: sums differ in the last of them."""
    return [
        (row["file_name"], [(one["text"], round(one["clip_similarity"], 3)) for one in row["captions"]])
        for row in captioned(parts.jobs.results(job_id))
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
