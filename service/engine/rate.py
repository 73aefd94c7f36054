"""How fast the engine is, for an honest Retry-After."""

SHORTEST_S, LONGEST_S = 1.0, 60.0
KEPT = 0.98
"""Share of the past that each turn keeps; at tens of turns a second the memory is a few seconds."""


class RateMeter:
    """Images answered per second of work, a moving average; idle time does not count."""

    def __init__(self) -> None:
        self._images = 0.0
        self._seconds = 0.0

    def add(self, *, images: int, seconds: float) -> None:
        self._images = self._images * KEPT + images
        self._seconds = self._seconds * KEPT + seconds

    def wait_s(self, *, depth: int) -> float:
        """Seconds that so many images take; 0 as long as nothing was measured."""
        return depth * self._seconds / self._images if self._images else 0.0

    def retry_after_s(self, *, depth: int) -> float:
        """Seconds until about half of the places are free, so that not everybody comes for the first one."""
        return min(LONGEST_S, max(SHORTEST_S, self.wait_s(depth=depth) / 2))
