"""What can go wrong with an image in the engine; fronts translate these into their own answers."""


class EngineError(Exception):
    """Any failure of the engine; the message may be shown to a caller."""


class QueueFullError(EngineError):
    """There is no place, or none that is served in time; try again after `retry_after_s` seconds."""

    def __init__(self, why: str, *, retry_after_s: float) -> None:
        super().__init__(f"{why}; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class DeadlineExceededError(EngineError):
    """The captions were not ready in time."""


class EngineStoppedError(EngineError):
    """The engine is stopping or was never started, and takes no more images."""


class EngineDeadError(EngineError):
    """The engine's thread ended by an error that it could not survive."""


class InvalidInputError(EngineError):
    """The tensor is neither pixels nor an embedding that this model can caption."""


class CaptioningError(EngineError):
    """The model failed on this image or on the batch it was part of."""
