"""A worker for fine-tunes alone, as `semicap serve` keeps one: it waits for its first job without torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.jobs.queue import make_celery
from tests.service.jobs.broker import running_broker

START_S = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="a process's libraries are read there"),
]


def test_a_worker_that_only_fine_tunes_waits_without_torch(tmp_path: Path) -> None:
    with running_broker(tmp_path / "broker") as broker:
        worker = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker", "--only", "finetunes"],
            env={**os.environ, "SEMICAP_REDIS_URL": broker.url, "SEMICAP_DATA_DIR": str(tmp_path / "data")},
        )
        try:
            _await_answer(worker, broker.url)
            libraries = Path(f"/proc/{worker.pid}/maps").read_text()
        finally:
            worker.kill()
            worker.wait()
    assert "libtorch" not in libraries


def _await_answer(worker: "subprocess.Popen[bytes]", url: str) -> None:
    celery, end = make_celery(url), time.monotonic() + START_S
    try:
        while not celery.control.ping(timeout=1):
            assert worker.poll() is None, "the worker has ended"
            assert time.monotonic() < end, "the worker does not answer"
    finally:
        celery.close()
