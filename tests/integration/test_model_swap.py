"""Two real API processes on one store: versions change under load, nothing is dropped or mixed."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry
from service.settings import Settings
from tests.service import pictures
from tests.tiny import tiny_checkpoint

WAIT_S = 600
CLIENTS = 16
PICTURES = ("astronaut", "chelsea", "coffee", "rocket")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Api:
    """A running `semicap api`."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self.log = log
        self._port = 0
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "api", "--port", "0"],
                stderr=file,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("SEMICAP_")},
                    "SEMICAP_DATA_DIR": str(data_dir),
                    "SEMICAP_LOG_FORMAT": "json",
                    "SEMICAP_PRECISION": "fp32",
                },
            )

    def port(self) -> int:
        def is_there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            found = re.search(r'"url": "http://127.0.0.1:(\d+)"', self.log.read_text())
            self._port = int(found[1]) if found else 0
            return bool(found)

        if not self._port:
            wait_for(is_there, "the API does not start")
        return self._port

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        with closing(HTTPConnection("127.0.0.1", self.port(), timeout=WAIT_S)) as connection:
            connection.request(
                method, path, body=body, headers={"Content-Type": "image/jpeg"} if body else {}
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def active(self) -> str:
        return next(
            str(model["id"]) for model in self.ask("GET", "/v1/models")[1]["data"] if model["is_active"]
        )

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/health/ready")[0] == 200
        except OSError:
            return False


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)


@pytest.fixture
def apis(tmp_path: Path) -> Iterator[list[Api]]:
    apis = [Api(tmp_path / "data", tmp_path / f"api-{number}.log") for number in range(2)]
    yield apis
    for api in apis:
        api.process.kill()
        api.process.wait()


def test_versions_change_under_load_on_two_replicas(tmp_path: Path, apis: list[Api]) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    registry = ModelRegistry(ArtifactStore.open(settings.store_location), settings.model_cache)
    versions = [
        registry.publish(tiny_checkpoint(tmp_path / str(seed), seed=seed), origin="imported")
        for seed in (1, 2)
    ]
    photos = [pictures.encoded(Image.fromarray(getattr(skimage.data, name)()), "JPEG") for name in PICTURES]
    for api in apis:
        wait_for(api.is_ready, "the API is not ready")
    expected: dict[str, list[Any]] = {}
    for version in versions:
        apis[0].ask("POST", f"/v1/models/{version.id}/activate")
        expected[version.version] = [_answer(apis[0], photo)[2] for photo in photos]
    wait_for(lambda: all(api.active() == versions[1].id for api in apis), "a replica does not follow")
    ended = threading.Event()

    def ask(number: int) -> list[tuple[int, bool, str]]:
        seen: list[tuple[int, bool, str]] = []
        while not ended.is_set():
            which = (number + len(seen)) % len(photos)
            status, version, text = _answer(apis[number % 2], photos[which])
            seen.append((status, text == expected.get(version, photos)[which], version))
        return seen

    followed = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(ask, number) for number in range(CLIENTS)]
        try:
            for path in (f"{versions[0].id}/activate", "rollback") * 2:
                status, model = apis[0].ask("POST", f"/v1/models/{path}")
                assert status == 200, model
                followed.append(_seconds_until(apis[1], model["id"]))
        finally:
            ended.set()
        seen = [one for each in running for one in each.result()]
    statuses, rights = {status for status, _, _ in seen}, [is_right for _, is_right, _ in seen]
    print(f"\n{len(seen)} answers, {rights.count(False)} mixed, {statuses}, followed after {followed} s")
    assert statuses == {200}
    assert all(rights)
    assert {version for _, _, version in seen} >= set(expected)


def _seconds_until(api: Api, model: str) -> float:
    began = time.monotonic()
    wait_for(lambda: api.active() == model, "the other replica does not follow")
    return round(time.monotonic() - began, 1)


def _answer(api: Api, photo: bytes) -> tuple[int, str, str]:
    status, answer = api.ask("POST", "/v1/captions?strategy=greedy", photo)
    if status != 200:
        return status, "", json.dumps(answer)
    return status, answer["model"]["version"], answer["results"][0]["captions"][0]["text"]
