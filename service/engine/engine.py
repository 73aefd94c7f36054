"""The engine: pixels or embeddings in, futures of scored captions out, all decoded in one in-flight batch."""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from torch import Tensor

from models.captioner import Captioner
from models.generation import GenerationOptions
from service.engine.allocator import keep_freed_memory
from service.engine.deadlines import DeadlineWatch
from service.engine.errors import EngineDeadError, EngineStoppedError, QueueFullError
from service.engine.gpu import use_gpu
from service.engine.inputs import check_captionable, check_image
from service.engine.observer import SILENT, EngineObserver, failure_of
from service.engine.offline import CaptionStream
from service.engine.options import CaptionOptions
from service.engine.pipeline import Pipeline
from service.engine.places import Places
from service.engine.rate import RateMeter
from service.engine.results import ImageCaptions, ImageScores, Priority
from service.engine.settings import DEFAULTS, EngineSettings
from service.engine.speed import Speed, with_speed
from service.engine.threads import limit_threads
from service.engine.waiting import WaitingLine
from service.engine.warmup import warm_up
from service.engine.work import Texts, TokenListener, Wanted, Work, fail

__all__ = ["Engine", "EngineSettings", "Places"]

log = logging.getLogger(__name__)
Key = TypeVar("Key")
State = Literal["new", "running", "draining", "stopped", "dead"]
STOP_GRACE_S = 5.0
"""What a batch that is in the model when the drain time ends may take on top."""


class Engine:
    """Captions images on a thread of its own: admits, encodes, decodes, scores, answers.

    Args:
        observer: is told what happens, on the engine's threads and on those of callers.
        on_fatal: is called once when the engine's thread ends by an error, after every waiter was answered.
        elsewhere: says how many images hold a place in other engines of the process than the one it is given;
            they count towards max_depth.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        settings: EngineSettings = DEFAULTS,
        observer: EngineObserver = SILENT,
        on_fatal: Callable[[BaseException], None] = lambda error: None,
        elsewhere: Callable[["Engine"], int] = lambda engine: 0,
    ) -> None:
        self._captioner = captioner.eval()
        self._settings = settings
        self._observer = observer
        self._on_fatal = on_fatal
        self._elsewhere = elsewhere
        self.speed: Speed | None = None
        self._changed = threading.Condition()
        self._state: State = "new"
        self._reserved = 0
        self._accepted: set[Work] = set()
        self._line = WaitingLine()
        self._drain_until = 0.0
        self._rate = RateMeter(trusted=settings.max_images)
        self._deadlines = DeadlineWatch()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="semicap-engine", daemon=True)

    def start(self) -> None:
        """Starts the engine's thread and warms the model up on it; returns when it is ready.

        Raises:
            EngineDeadError: the model does not run.
        """
        keep_freed_memory()
        self._deadlines.start()
        self._thread.start()
        self._ready.wait()
        if self._state == "dead":
            raise EngineDeadError("the engine's thread ended while it warmed the model up; the log says why")

    def stop(self, *, drain_s: float) -> None:
        """Refuses new places, finishes what was accepted within `drain_s` seconds, fails the rest."""
        with self._changed:
            if self._state in ("new", "running"):
                self._state = "draining" if self._state == "running" else "stopped"
                self._drain_until = time.monotonic() + drain_s
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(drain_s + STOP_GRACE_S)
        self._end("stopped", EngineStoppedError("the engine stopped before the captions were ready"))

    def is_alive(self) -> bool:
        """Whether the engine's thread runs and takes work."""
        return self._state == "running" and self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Images that hold a place: reserved, waiting or running."""
        return self._reserved + len(self._accepted)

    def reserve(self, count: int = 1, *, priority: Priority = "interactive") -> Places:
        """Takes `count` places before the images are even decoded: `with engine.reserve(3) as places:`.

        Raises:
            QueueFullError: with the seconds after which a place is likely.
            EngineStoppedError, EngineDeadError: there will be none.
        """
        with self._changed:
            self._require("running")
            depth = self._total_depth()
            if refusal := self._refusal(count, priority, depth=depth):
                retry_after_s = self._rate.retry_after_s(depth=depth)
                raise QueueFullError(
                    f"{depth} images wait or run, and {refusal}", retry_after_s=retry_after_s
                )
            self._reserved += count
        self._observer.depth_changed(depth=self._total_depth())
        return Places(count, priority, self._give_back)

    def submit(
        self,
        image: Tensor,
        options: CaptionOptions,
        *,
        places: Places | None = None,
        request_id: Hashable = None,
        deadline: float | None = None,
        on_tokens: TokenListener | None = None,
        wanted: Wanted | None = None,
    ) -> Future[ImageCaptions]:
        """Queues one image to be captioned.

        Args:
            image: UInt8 pixels (3, height, width) of the model's size, or its Float CLIP embedding (embed).
            places: where the place comes from (and its priority); None reserves one interactive place.
            request_id: images of one id take turns with those of others; None is a request of its own.
            deadline: time.monotonic() by which the captions must be there.
            wanted: called on the engine's thread with the embedding; after False the answer has no captions.
            on_tokens: called on the engine's thread after each token with the ids so far by index of the
                caption; of a beam its best hypothesis. It must be quick.

        Returns:
            A future of ImageCaptions or of DeadlineExceededError, CaptioningError, EngineStoppedError or
            EngineDeadError. Cancelling it takes the image out of the engine.

        Raises:
            InvalidInputError, OptionError: nothing was queued; the place is still the caller's.
            QueueFullError, EngineStoppedError, EngineDeadError: as in reserve, when `places` is None.
        """
        check_captionable(image, self._captioner)
        max_tokens = self._captioner.config.max_tokens
        generation = options.to_generation(self._captioner.tokenizer, max_tokens=max_tokens)
        places = places or self.reserve()
        work = Work(
            image, options, generation, request_id, places.priority, on_tokens=on_tokens, wanted=wanted
        )
        return self._queue(work, places, deadline=deadline)

    def submit_scores(
        self,
        image: Tensor,
        texts: Texts,
        *,
        places: Places | None = None,
        request_id: Hashable = None,
        deadline: float | None = None,
    ) -> Future[ImageScores]:
        """Queues one image whose similarity with given texts is asked for; otherwise as submit.

        Args:
            texts: pass the same object for all images of a request: the texts are encoded once.
        """
        check_image(image, self._captioner)
        places = places or self.reserve()
        generation = GenerationOptions("greedy")
        work = Work(image, CaptionOptions(), generation, request_id, places.priority, texts=texts)
        return self._queue(work, places, deadline=deadline)

    def caption_many(
        self,
        images: Iterable[tuple[Key, Tensor]],
        options: CaptionOptions,
        *,
        wanted: Callable[[Key, Tensor], bool] | None = None,
    ) -> Iterator[tuple[Key, Future[ImageCaptions]]]:
        """Captions a stream of images at bulk priority; yields each key with its done future as it completes.

        Reads a bounded number of images ahead. Closing the iterator cancels what is in flight.
        """
        read_ahead = 2 * self._settings.max_images
        return iter(CaptionStream(self, images, options, read_ahead=read_ahead, wanted=wanted))

    def _refusal(self, count: int, priority: Priority, *, depth: int) -> str | None:
        """Why there is no place, if there is none."""
        is_bulk = priority == "bulk"
        limit = max(1, self._settings.max_depth // 2) if is_bulk else self._settings.max_depth
        if depth + count > limit:
            return f"{count} more would pass the limit of {limit}"
        wait_s, longest_s = self._rate.wait_s(depth=depth), self._settings.max_wait_s
        if is_bulk or wait_s <= longest_s:
            return None
        return f"that is {wait_s:.0f} s of work, while an answer has to be there within {longest_s:.0f} s"

    def _total_depth(self) -> int:
        return self.depth + self._elsewhere(self)

    def _give_back(self, count: int) -> None:
        with self._changed:
            self._reserved -= count
            self._changed.notify_all()
        self._observer.depth_changed(depth=self._total_depth())

    def _require(self, *states: State) -> None:
        if self._state == "dead":
            raise EngineDeadError("the engine ended by an error; the service's log has it")
        if self._state not in states:
            raise EngineStoppedError(f"the engine is {self._state}: it takes no images")

    def _queue(self, work: Work, places: Places, *, deadline: float | None) -> Future[Any]:
        with self._changed:
            self._require("running", "draining")
            places.take()
            self._reserved -= 1
            self._accepted.add(work)
            self._line.push(work)
            self._changed.notify_all()
        work.future.add_done_callback(lambda done: self._settled(work))
        if deadline is not None:
            self._deadlines.watch(work.future, deadline=deadline, number=work.number)
        return work.future

    def _settled(self, work: Work) -> None:
        """Runs once for each image, on the thread that answered or cancelled it."""
        with self._changed:
            self._accepted.discard(work)
            self._line.remove(work)
            self._changed.notify_all()
        self._observer.depth_changed(depth=self._total_depth())
        if work.future.cancelled():
            work.future.set_running_or_notify_cancel()
            self._observer.lost("cancelled")
        elif (error := work.future.exception()) is not None:
            self._observer.lost(failure_of(error))
        elif work.texts is None:
            self._observer.captioned(work.future.result())
        else:
            self._observer.scored(work.future.result())

    def _run(self) -> None:
        try:
            limit_threads()
            use_gpu(self._captioner.device)
            self._captioner, speed = with_speed(self._captioner, self._settings.precision)
            self.speed = speed
            self._observer.speed_chosen(speed)
            log.info("weights in %s; seconds measured: %s", speed.precision, dict(speed.measured_s))
            warm_up(self._captioner, encode_batch=self._settings.encode_batch)
            pipeline = Pipeline(self._captioner, settings=self._settings, observer=self._observer)
            with self._changed:
                self._state = "running" if self._state == "new" else self._state
            self._ready.set()
            while self._wait_for_work(pipeline):
                self._turn(pipeline)
        except BaseException as error:
            log.exception("the engine's thread ended by an error")
            self._end("dead", EngineDeadError("the engine ended by an error before the captions were ready"))
            self._on_fatal(error)
        finally:
            self._ready.set()

    def _wait_for_work(self, pipeline: Pipeline) -> bool:
        """Sleeps while there is nothing to do; False when the thread shall end."""
        with self._changed:
            while self._state in ("running", "draining"):
                left_s = self._drain_until - time.monotonic() if self._state == "draining" else None
                if left_s is not None and (left_s <= 0 or self.depth == 0):
                    return False
                if len(self._line) or not pipeline.is_empty:
                    return True
                self._changed.wait(left_s)
            return False

    def _turn(self, pipeline: Pipeline) -> None:
        """New images join, then every caption in flight gets one token."""
        began = time.monotonic()
        pipeline.drop_settled()
        ended = pipeline.join()
        works = [] if pipeline.is_encoding else self._next_works(pipeline)
        is_loaded = len(self._line) > 0
        ended += pipeline.admit(works) if works else 0
        ended += pipeline.step() if pipeline.is_decoding else 0
        self._rate.add(images=ended, seconds=time.monotonic() - began, is_loaded=is_loaded)

    def _next_works(self, pipeline: Pipeline) -> list[Work]:
        works: list[Work] = []
        with self._changed:
            while len(works) < self._settings.encode_batch:
                work = self._line.pop(lambda one: pipeline.fits([*works, one]))
                if work is None:
                    break
                works.append(work)
        return works

    def _end(self, state: State, error: Exception) -> None:
        with self._changed:
            self._state = state if self._state != "dead" else "dead"
            left = list(self._accepted)
            self._changed.notify_all()
        self._deadlines.stop()
        for work in left:
            fail(work.future, error)
