"""A model with an engine around it, and how another one is loaded beside it."""

from concurrent.futures import Executor
from functools import partial

import structlog

from service.captioning import Captioning
from service.engine.engine import Engine, EngineSettings
from service.images import ImageLimits
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.model_choice import Choice
from service.registry import ServedModel
from service.repeats import Repeats
from service.serving import ModelSwitch, Serving
from service.settings import Settings

WAITING_SHARE = 0.9
"""Of the time that an answer may take: the rest is for the image's own captions."""

log = structlog.stdlib.get_logger("semicap.models")


class ServingLoader:
    """Makes what answers out of a model.

    Args:
        pool: its threads decode images, whichever version is to caption them.
    """

    def __init__(
        self,
        settings: Settings,
        switch: ModelSwitch,
        *,
        pool: Executor,
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> None:
        self._settings = settings
        self._switch = switch
        self._pool = pool
        self._metrics = metrics
        self._lifecycle = lifecycle

    def beside_current(self, choice: Choice) -> Serving:
        """A version, loaded and warm, while another one answers."""
        return self.start(choice.load(device=self._settings.device), like=self._switch.current)

    def start(self, model: ServedModel, *, like: Serving | None = None) -> Serving:
        """A model with its engine running.

        Args:
            like: what has chosen its number format already.

        Raises:
            EngineDeadError: the model does not run.
        """
        wanted = self._settings.precision
        engine = Engine(
            model.captioner,
            settings=EngineSettings(
                max_depth=self._settings.max_queued_images,
                max_wait_s=WAITING_SHARE * self._settings.deadline_s,
                precision=like.precision_for(model, wanted) if like else wanted,
            ),
            observer=self._metrics,
            on_fatal=partial(self._died, model.id),
            elsewhere=self._switch.depth_besides,
        )
        engine.start()
        captioning = Captioning(
            engine,
            preprocess=model.captioner.clip.preprocess,
            limits=ImageLimits(
                max_bytes=self._settings.max_image_bytes, max_pixels=self._settings.max_image_pixels
            ),
            pool=self._pool,
            on_rejected=self._metrics.image_rejected,
            repeats=Repeats(
                self._settings.repeated_images,
                is_kept=lambda one: one.error is None,
                on_answer=self._metrics.image_answered,
            ),
        )
        return Serving(model, engine, captioning)

    def _died(self, model: str, error: BaseException) -> None:
        """Only the engine that answers takes the process along."""
        if self._switch.answers_with(model):
            self._lifecycle.fail(error)
        else:
            log.error("other_engine_died", model=model, error=repr(error))
