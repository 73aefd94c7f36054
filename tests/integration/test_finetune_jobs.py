"""Fine-tuning jobs on a real broker and real workers: killed, stopped, canceled, meant to collapse."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.finetuning.settings import FinetuneSettings
from service.jobs.documents import Dataset, FinetuneJob, new_id, now
from service.jobs.parts import JobParts
from service.jobs.status import JobStatus
from service.model_registry import ModelRegistry
from service.model_versions import ModelVersion
from service.settings import Settings
from tests.service.finetuning.runs import photo_dataset, published, registry_of
from tests.service.jobs.broker import RunningBroker, running_broker
from tests.tiny import tiny_clip

WAIT_S = 600
STEPS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


class Scene:
    """A store with a base and photos, a broker, and one worker process at a time."""

    def __init__(self, root: Path, broker: RunningBroker, checkpoint: Path) -> None:
        self.root = root
        self.base: ModelVersion = published(root, checkpoint)
        self.parts = JobParts.build(Settings(data_dir=root, redis_url=broker.url))
        self.dataset: Dataset = photo_dataset(self.parts.store, 70, others={"broken.jpg": b"\xff\xd8\xff"})
        tiny_clip(root / "second", seed=5)
        self._environment = {
            **os.environ,
            "SEMICAP_REDIS_URL": broker.url,
            "SEMICAP_DATA_DIR": str(root),
            "SEMICAP_SECOND_SCORER": str(root / "second"),
            "SEMICAP_FINETUNE_SAVE_MINUTES": "0.005",
            "SEMICAP_FINETUNE_THREADS": "1",
            "SEMICAP_LOG_FORMAT": "json",
            "SEMICAP_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        self._log = root / "worker.log"
        self.worker = self.start_worker()
        self.parts.keeper.start()

    @property
    def registry(self) -> ModelRegistry:
        return registry_of(self.root)

    def start_worker(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "worker", "--only", "finetunes"],
                stderr=log,
                env=self._environment,
            )
        return self.worker

    def submit(self, **settings: Any) -> str:
        quick = {"batch_size": 8, "samples": 2, "evaluate_every": 25, "early_stop": False, **settings}
        job = FinetuneJob(
            id=new_id("job"),
            created=now(),
            dataset=self.dataset.id,
            num_items=self.dataset.num_items,
            base=self.base.id,
            settings=FinetuneSettings.model_validate(quick).model_dump(),
            auto_activate=True,
        )
        self.parts.jobs.submit(job)
        return job.id

    def status(self, job: str) -> JobStatus:
        return self.parts.jobs.status(job)

    def step(self, job: str) -> int:
        training = self.status(job).training
        assert training is not None
        return training.step

    def wait(self, job: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"{self.status(job)}\n{self._log.read_text()[-4000:]}"
            time.sleep(0.1)

    def wait_for_end(self, job: str) -> JobStatus:
        self.wait(job, lambda: self.status(job).ended is not None)
        return self.status(job)

    def wait_for_state(self, job: str, *, beyond: int) -> int:
        """Until a state of a later step lies in the store; that step."""
        found: list[int] = []

        def is_there() -> bool:
            keys = self.parts.store.keys(f"jobs/{job}/states")
            found[:] = [int(key.rpartition("/")[2].partition(".")[0]) for key in keys]
            return bool(found) and found[-1] > beyond

        self.wait(job, is_there)
        return found[-1]

    def end(self) -> None:
        self.parts.close()
        self.worker.kill()
        self.worker.wait()


@pytest.fixture(scope="module")
def scene(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("finetunes")
    with running_broker(root / "broker") as broker:
        scene = Scene(root, broker, tiny_checkpoint)
        yield scene
        scene.end()


def test_killed_and_stopped_workers_leave_one_version_of_every_step(scene: Scene) -> None:
    job = scene.submit(steps=STEPS)
    killed_at = scene.wait_for_state(job, beyond=0)
    scene.worker.kill()
    scene.worker.wait()
    scene.start_worker()
    stopped_at = scene.wait_for_state(job, beyond=killed_at)
    scene.worker.send_signal(signal.SIGTERM)
    scene.worker.wait(WAIT_S)
    if scene.status(job).ended is None:  # it was given back at once
        assert scene.step(job) < STEPS
    scene.start_worker()
    status = scene.wait_for_end(job)
    print(f"\nsteps {STEPS}, killed after the state of {killed_at}, stopped after that of {stopped_at}")

    assert (status.state, status.error) == ("succeeded", None)
    assert (status.counts.done, status.counts.failed) == (70, 1)
    assert status.training is not None
    assert status.training.model is not None
    made = [one for one in scene.registry.versions() if one.origin == "finetuned"]
    assert [one.id for one in made] == [status.training.model.id]
    assert (made[0].parent, made[0].job) == (scene.base.version, job)
    report = json.loads(scene.registry.report(made[0]) or b"")
    assert [step for step, _ in report["losses"]] == list(range(1, STEPS + 1)), "each step once"
    steps = [point["step"] for point in status.training.curve]
    assert steps == sorted(set(steps))
    assert {"clip_similarity", "second_similarity"} <= status.training.curve[-1].keys()
    assert scene.parts.store.keys(f"jobs/{job}/states") == []
    scene.wait(job, lambda: not list((scene.root / "finetunes").glob("job-*")))


def test_job_meant_to_collapse_is_refused_and_not_activated(scene: Scene) -> None:
    guards_off = {"kl": 0, "length": 0, "repetition": 0}
    job = scene.submit(steps=12, lr=0.3, **guards_off)
    status = scene.wait_for_end(job)
    assert status.state == "succeeded"
    assert status.training is not None
    made = status.training.model
    assert made is not None
    assert (made.gate["passed"], made.is_activated) == (False, False)
    print(f"\n{made.gate['reason']}")
    assert made.gate["reason"].startswith("refused: ")
    active = scene.registry.active()
    assert active is None or active.model != made.id


def test_canceled_job_ends_soon_and_leaves_no_version(scene: Scene) -> None:
    before = {one.id for one in scene.registry.versions()}
    job = scene.submit(steps=5000)
    scene.wait(job, lambda: scene.step(job) > 0)
    scene.parts.jobs.cancel(job)
    status = scene.wait_for_end(job)
    assert status.state == "canceled"
    assert status.training is not None
    assert status.training.step < 5000
    assert {one.id for one in scene.registry.versions()} == before
    assert scene.parts.store.keys(f"jobs/{job}/states") == []
    assert not list((scene.root / "finetunes").glob("job-*"))
