"""What the engine tells a listener such as the metrics, on its own threads: the listener must be quick."""

from typing import TYPE_CHECKING, Literal, Protocol

from service.engine.errors import DeadlineExceededError, EngineDeadError, EngineStoppedError
from service.engine.results import ImageCaptions, ImageScores, Priority

if TYPE_CHECKING:  # whoever counts or keeps results needs no torch
    from service.engine.speed import Speed

Stage = Literal["encode", "prefill", "decode", "score"]
Failure = Literal["deadline", "cancelled", "failed", "stopped"]


def failure_of(error: BaseException) -> Failure:
    """What the engine's error counts as."""
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    return "stopped" if isinstance(error, (EngineStoppedError, EngineDeadError)) else "failed"


class EngineObserver(Protocol):
    """Instrumentation of the engine; all durations in seconds."""

    def speed_chosen(self, speed: "Speed") -> None:
        """The engine starts, with its model's weights in this format."""

    def depth_changed(self, *, depth: int) -> None:
        """Images that hold a place now: reserved, waiting or running."""

    def admitted(self, *, queue_s: float, priority: Priority) -> None:
        """An image left the queue after waiting this long."""

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None:
        """One batch passed a stage: of images in encode and prefill, rows in decode, captions in score."""

    def captioned(self, result: ImageCaptions) -> None:
        """An image was answered."""

    def scored(self, result: ImageScores) -> None:
        """Given texts were scored against an image."""

    def lost(self, reason: Failure) -> None:
        """An image was accepted and not answered."""


class SilentObserver:
    """Listens to nothing."""

    def speed_chosen(self, speed: "Speed") -> None: ...

    def depth_changed(self, *, depth: int) -> None: ...

    def admitted(self, *, queue_s: float, priority: Priority) -> None: ...

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None: ...

    def captioned(self, result: ImageCaptions) -> None: ...

    def scored(self, result: ImageScores) -> None: ...

    def lost(self, reason: Failure) -> None: ...


SILENT = SilentObserver()
