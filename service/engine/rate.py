"""How fast the engine is, for an honest Retry-After and for refusing what could not be answered in time."""

SHORTEST_S, LONGEST_S = 1.0, 60.0
KEPT = 0.98
"""Share of the past that each turn keeps; at tens of turns a second the memory is a few seconds."""


class _Average:
    """Seconds of work for an image, a moving average; idle time does not count."""

    def __init__(self) -> None:
        self.images = 0.0
        self._seconds = 0.0

    def add(self, *, images: int, seconds: float) -> None:
        self.images = self.images * KEPT + images
        self._seconds = self._seconds * KEPT + seconds

    @property
    def image_s(self) -> float:
        return self._seconds / self.images if self.images else 0.0


class RateMeter:
    """What images cost, always and while others wait for a place.

    Args:
        trusted: images that must have been answered under load before it is known what load does: one by one
            they take longer, and of the first ones none is ready for a while.
    """

    def __init__(self, *, trusted: int) -> None:
        self._trusted = trusted
        self._always, self._loaded = _Average(), _Average()

    def add(self, *, images: int, seconds: float, is_loaded: bool) -> None:
        """One turn of the engine."""
        self._always.add(images=images, seconds=seconds)
        if is_loaded:
            self._loaded.add(images=images, seconds=seconds)

    def wait_s(self, *, depth: int) -> float:
        """Seconds that so many images take under load; 0 as long as that is not known."""
        return depth * self._loaded.image_s if self._loaded.images >= self._trusted else 0.0

    def retry_after_s(self, *, depth: int) -> float:
        """Seconds until about half of the places are free, so that not everybody comes for the first one."""
        return min(LONGEST_S, max(SHORTEST_S, depth / 2 * self._always.image_s))
