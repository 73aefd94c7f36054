"""A tiny real captioner, an engine around it, and ways to hold, break and watch it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from service.engine.engine import Engine, EngineSettings
from service.engine.observer import Failure, Stage
from service.engine.results import ImageCaptions, ImageScores, Priority
from service.engine.speed import Speed
from tests.tiny import tiny_captioner

WAIT_S = 30.0
SPREAD = 6
"""Random weights say the same of every image; larger ones do not."""


@pytest.fixture
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    captioner = tiny_captioner(tmp_path_factory.mktemp("captioner")).requires_grad_(False)
    for parameter in captioner.decoder.parameters():
        if parameter.ndim > 1:
            parameter.mul_(SPREAD)
    return captioner


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(
        0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.depth = 0
        self.stages: list[tuple[Stage, int]] = []
        self.admissions: list[Priority] = []
        self.answers: list[ImageCaptions] = []
        self.scores: list[ImageScores] = []
        self.losses: list[Failure] = []
        self.speeds: list[Speed] = []

    def speed_chosen(self, speed: Speed) -> None:
        self.speeds.append(speed)

    def depth_changed(self, *, depth: int) -> None:
        self.depth = depth

    def admitted(self, *, queue_s: float, priority: Priority) -> None:
        assert queue_s >= 0
        self.admissions.append(priority)

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append((stage, batch_size))

    def captioned(self, result: ImageCaptions) -> None:
        self.answers.append(result)

    def scored(self, result: ImageScores) -> None:
        self.scores.append(result)

    def lost(self, reason: Failure) -> None:
        self.losses.append(reason)


class Gate:
    """Holds the engine's thread before it encodes, once it is shut."""

    def __init__(self, captioner: Captioner) -> None:
        self._open = threading.Event()
        self._open.set()
        self._arrived = threading.Event()
        self._encode: Callable[[Tensor], ImageFeatures] = captioner.encode_image
        self.batches: list[int] = []

    def encode_image(self, images: Tensor) -> ImageFeatures:
        self.batches.append(len(images))
        self._arrived.set()
        assert self._open.wait(WAIT_S)
        return self._encode(images)

    def shut(self) -> None:
        self._arrived.clear()
        self._open.clear()

    def wait_for_arrival(self) -> None:
        """Returns when the engine's thread stands at the gate."""
        assert self._arrived.wait(WAIT_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(captioner)
    monkeypatch.setattr(captioner, "encode_image", gate.encode_image)
    yield gate
    gate.open()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_engine(captioner: Captioner, recorder: Recorder) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(on_fatal: Callable[[BaseException], None] = lambda error: None, **bounds: int) -> Engine:
        settings = EngineSettings(precision="fp32", **bounds)  # the oracle's, so that captions are its own
        engine = Engine(captioner, settings=settings, observer=recorder, on_fatal=on_fatal)
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.stop(drain_s=0)


def result(future: "Future[ImageCaptions]") -> ImageCaptions:
    return future.result(WAIT_S)


def error(future: "Future[ImageCaptions]") -> BaseException:
    raised = future.exception(WAIT_S)
    assert raised is not None
    return raised
