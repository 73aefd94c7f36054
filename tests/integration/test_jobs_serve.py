"""`semicap serve` with a job in hand: each process is killed, then all of them; the job ends whole."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.jobs.tar_stream import tar_of
from tests.service import pictures

WAIT_S = 900
"""A busy machine takes minutes to load a model four times."""
PHOTOS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


class Serve:
    """A running `semicap serve`."""

    def __init__(self, checkpoint: Path, data_dir: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port)]
        self._environment = {
            **os.environ,
            "SEMICAP_CHECKPOINT": str(checkpoint),
            "SEMICAP_DATA_DIR": str(data_dir),
            "SEMICAP_JOB_CHUNK_ITEMS": "8",
            "SEMICAP_JOB_SAVE_S": "0.2",
            "SEMICAP_LOG_LEVEL": "debug",
            "SEMICAP_LOG_FORMAT": "json",
        }
        self.log = log
        self.process = self._start()

    def restart(self) -> None:
        self.process = self._start()

    def child(self, name: str) -> int:
        """Process id of a child, once it runs."""
        pids: list[str] = []

        def is_there() -> bool:
            pids[:] = re.findall(rf'"child": "{name}", "pid": (\d+)', self.log.read_text())
            return bool(pids) and is_alive(int(pids[-1]))

        wait_for(is_there, f"no {name} runs")
        return int(pids[-1])

    def ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=body,
            headers={"Content-Type": content_type},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
        return [json.loads(line) for line in text.splitlines()] if "\n{" in text else json.loads(text or "[]")

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/health/ready"))
        except OSError:
            return False

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stderr=log, env=self._environment)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)


@pytest.fixture
def serve(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Serve]:
    serve = Serve(tiny_checkpoint, tmp_path / "data", tmp_path / "serve.log")
    yield serve
    serve.process.kill()
    serve.process.wait()


def test_job_survives_every_kill_and_nothing_is_left_behind(serve: Serve, tmp_path: Path) -> None:
    wait_for(serve.answers, "the service does not answer")
    broken = [pictures.truncated_jpeg(pictures.cat()) for _ in range(2)]
    job = serve.ask(
        "POST", "/v1/jobs/captions", _job_on(serve, [*pictures.photos(PHOTOS), *broken]), "application/json"
    )

    def settled() -> int:
        counts: dict[str, int] = serve.ask("GET", f"/v1/jobs/{job['id']}")["counts"]
        return counts["done"] + counts["failed"]

    wait_for(lambda: settled() > 0, "the worker does not begin")
    for name in ("worker", "broker", "api"):
        os.kill(serve.child(name), signal.SIGKILL)
    wait_for(serve.answers, "the API does not come back")

    children = [serve.child(name) for name in ("api", "broker", "worker")]
    serve.process.kill()
    serve.process.wait()
    wait_for(lambda: not any(map(is_alive, children)), "a child outlived its parent")
    serve.restart()
    wait_for(serve.answers, "the service does not start again")
    wait_for(
        lambda: serve.ask("GET", f"/v1/jobs/{job['id']}")["finished"] is not None, "the job does not end"
    )

    found = Counter(
        line["item"]
        for kind in ("results", "errors")
        for line in serve.ask("GET", f"/v1/jobs/{job['id']}/{kind}")
    )
    print(
        f"\nitems {PHOTOS + 2}, lost {PHOTOS + 2 - len(found)}, duplicated {sum(found.values()) - len(found)}"
    )
    assert found == Counter(range(PHOTOS + 2))

    children = [serve.child(name) for name in ("api", "broker", "worker")]
    serve.process.send_signal(signal.SIGTERM)
    assert serve.process.wait(60) == 0, serve.log.read_text()[-3000:]
    assert not any(map(is_alive, children))


def _job_on(serve: Serve, photos: list[bytes]) -> bytes:
    tar = b"".join(tar_of((f"{number:04d}.jpg", data) for number, data in enumerate(photos)))
    dataset = serve.ask("POST", "/v1/datasets", tar, "application/x-tar")
    return json.dumps({"dataset": dataset["id"], "options": {"num_beams": 4}}).encode()
