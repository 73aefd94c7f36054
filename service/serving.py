"""The model that answers, and the switch from one to another that no request notices."""

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog
import torch

from service.captioning import Captioning, service_error
from service.engine.engine import Engine, Places
from service.engine.errors import EngineError
from service.engine.speed import Wanted
from service.registry import ServedModel

log = structlog.stdlib.get_logger("semicap.models")


class Handover:
    """A model that is given away once, so that nobody holds it in memory when another one has its place."""

    def __init__(self, model: ServedModel) -> None:
        self.id = model.id
        self._model: ServedModel | None = model

    def take(self) -> ServedModel:
        """The model; there is none a second time."""
        model, self._model = self._model, None
        if model is None:
            raise RuntimeError(f"{self.id} was given away already")
        return model


@dataclass(frozen=True)
class Loaded:
    """A model and its running engine."""

    model: ServedModel
    engine: Engine

    def precision_for(self, other: ServedModel, wanted: Wanted) -> Wanted:
        """The number format for another version: what is measured once holds for the same architecture.

        A measurement beside a busy engine could choose otherwise, and captions would change with it.
        """
        is_same = self.model.manifest.config == other.manifest.config
        return self.engine.speed.way if is_same and self.engine.speed else wanted


@dataclass(frozen=True)
class Serving(Loaded):
    """What answers requests: images get through `captioning`."""

    captioning: Captioning


class Place:
    """A place of a request whose version is not decided yet: it moves along when the version changes.

    A context manager that gives back what was not used.
    """

    def __init__(self, switch: "ModelSwitch", places: Places) -> None:
        self.places = places
        self._switch = switch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._switch.give_back(self)

    def bind(self, count: int) -> "Bound":
        """Decides for the version that answers now, with places for `count` images.

        Raises:
            ServiceError: there are not so many.
        """
        return self._switch.bind(self, count)


@dataclass(frozen=True)
class Bound:
    """The version that answers a request's images, and their places in its engine."""

    serving: Serving
    places: Places


class ModelSwitch:
    """Who answers. Requests after a switch go to the new engine, those before it end on the old one.

    Args:
        drain_s: seconds in which requests on an old engine end, at the latest by their deadline.
    """

    def __init__(self, *, drain_s: float) -> None:
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._current: Serving | None = None
        self._engines: tuple[Engine, ...] = ()
        self._waiting: set[Place] = set()
        self._retiring: threading.Thread | None = None

    @property
    def current(self) -> Serving:
        """What answers now; a request takes it once, by its place."""
        if self._current is None:
            raise RuntimeError("no model has been put in yet")
        return self._current

    def answers_with(self, model: str) -> bool:
        """Whether the version of that id answers."""
        return self._current is not None and self._current.model.id == model

    def depth_besides(self, engine: Engine) -> int:
        """Images that hold a place in the engines but one."""
        return sum(other.depth for other in self._engines if other is not engine)

    def reserve(self) -> Place:
        """A place for a request whose body is not read yet; raises ServiceError when there is none."""
        with self._lock:
            place = Place(self, _reserved(self.current.engine, 1))
            self._waiting.add(place)
            return place

    def bind(self, place: Place, count: int) -> Bound:
        """As Place.bind."""
        with self._lock:
            if count > 1:
                place.places.add(_reserved(self.current.engine, count - 1))
            self._waiting.discard(place)
            return Bound(self.current, place.places)

    def give_back(self, place: Place) -> None:
        """Ends a request's hold of what it did not use."""
        with self._lock:
            self._waiting.discard(place)
        place.places.release()

    def put(self, serving: Serving) -> None:
        """Lets a version, whose engine runs, answer from now on; the one before ends in the background."""
        with self._lock:
            before, self._current = self._current, serving
            self._engines = (*self._engines, serving.engine)
            for place in self._waiting:
                place.places.release()
                place.places = serving.engine.reserve(1)
        if before is not None:
            self._retiring = threading.Thread(
                target=self._retire, args=(before,), name="semicap-retire", daemon=True
            )
            self._retiring.start()

    def settle(self) -> None:
        """Waits until no more than one version is in memory."""
        if self._retiring is not None:
            self._retiring.join()

    def stop(self, *, drain_s: float) -> None:
        """Ends the engines, each within `drain_s` seconds."""
        for engine in reversed(self._engines):
            engine.stop(drain_s=drain_s)

    def _retire(self, serving: Serving) -> None:
        serving.engine.stop(drain_s=self._drain_s)
        with self._lock:
            self._engines = tuple(one for one in self._engines if one is not serving.engine)
        log.info("model_retired", model=serving.model.id)
        del serving  # its memory goes with the last reference: a collection would stop all threads meanwhile
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _reserved(engine: Engine, count: int) -> Places:
    try:
        return engine.reserve(count)
    except EngineError as error:
        raise service_error(error) from error
