"""Where the process stands between start and end; server, middleware and engine share it."""

import threading


class Lifecycle:
    """Set from a signal handler or the engine's thread, read everywhere."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._fatal: BaseException | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether new requests are refused."""
        return self._stopping.is_set()

    @property
    def fatal_error(self) -> BaseException | None:
        """What the engine could not survive, if it came to that."""
        return self._fatal

    def stop(self) -> None:
        """Refuses new requests from now on."""
        self._stopping.set()

    def fail(self, error: BaseException) -> None:
        """Notes that the engine is dead, so that the process ends and can be started again."""
        self._fatal = error
        self._stopping.set()
