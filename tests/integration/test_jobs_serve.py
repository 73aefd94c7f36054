"""`semicap serve` with a job in hand: each process is killed, then all of them; the job ends whole."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.tar_stream import tar_of
from tests.integration.supervised import Serve, is_alive, wait_for
from tests.service import pictures

PHOTOS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


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
    wait_for(lambda: serve.ask("GET", f"/v1/jobs/{job['id']}")["ended"] is not None, "the job does not end")

    found = Counter(
        line["item"] for kind in ("results", "errors") for line in serve.lines(f"/v1/jobs/{job['id']}/{kind}")
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
