"""The stages that images pass on the engine's thread: encode, prefill, decode, score."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from models.captioner import Captioner
from models.decoding import Decoded, DecodingBatch
from models.image_features import ImageFeatures
from service.engine.errors import CaptioningError
from service.engine.observer import EngineObserver, Stage
from service.engine.results import ImageCaptions, StageTimings
from service.engine.scoring import score_images
from service.engine.settings import EngineSettings
from service.engine.work import Work, answer, fail

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Pipeline:
    """Images in flight, from pixels to answered futures; knows no thread and no queue.

    A stage that fails answers every image in it with the error; a lost accelerator is raised.
    """

    def __init__(self, captioner: Captioner, *, settings: EngineSettings, observer: EngineObserver) -> None:
        self._captioner = captioner
        self._settings = settings
        self._observer = observer
        self._in_flight: dict[int, Work] = {}
        self._batch = self._new_batch()

    @property
    def is_empty(self) -> bool:
        return not self._in_flight

    def fits(self, works: Sequence[Work]) -> bool:
        """Whether these images could be admitted together now."""
        return self._batch.has_room([work.generation for work in works])

    @torch.inference_mode()
    def admit(self, works: Sequence[Work]) -> None:
        """Encodes images as one batch and writes the first token of each."""
        for work in works:
            work.queue_s = _next_stage(work)
            self._observer.admitted(queue_s=work.queue_s, priority=work.priority)
        prefixes = self._run("encode", works, lambda: self._encode(works))
        if prefixes is None:
            return
        for work in works:
            work.encode_s = _next_stage(work)
        options = [work.generation for work in works]
        tickets = self._run("prefill", works, lambda: self._batch.add(prefixes, options))
        if tickets is not None:
            self._in_flight.update(zip(tickets, works, strict=True))

    @torch.inference_mode()
    def step(self) -> int:
        """Writes one token of every caption, scores and answers what ended; returns how many images ended."""
        works = list(self._in_flight.values())
        ended = self._run("decode", works, self._batch.step, batch_size=self._batch.num_rows)
        if ended is None:
            self._in_flight.clear()
            self._batch = self._new_batch()
            return len(works)
        self._answer(ended)
        return len(ended)

    def drop_settled(self) -> None:
        """Takes out images whose caller is gone or has been answered, as by a deadline."""
        for ticket, work in list(self._in_flight.items()):
            if work.future.done():
                self._batch.drop(ticket)
                del self._in_flight[ticket]

    def _new_batch(self) -> DecodingBatch:
        captioner, settings = self._captioner, self._settings
        return DecodingBatch(
            captioner.decoder,
            captioner.tokenizer,
            max_images=settings.max_images,
            max_rows=settings.max_rows,
            max_tokens=captioner.config.max_tokens,
        )

    def _run(
        self, stage: Stage, works: Sequence[Work], run: Callable[[], Result], *, batch_size: int | None = None
    ) -> Result | None:
        """The stage's result, or None after its failure was answered."""
        began = time.monotonic()
        try:
            result = run()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            asked = sorted({str(work.request_id) for work in works})
            log.exception(
                "the %s stage failed with %d images", stage, len(works), extra={"request_ids": asked}
            )
            for work in works:
                fail(
                    work.future,
                    CaptioningError(f"the model failed in the {stage} stage: {type(error).__name__}"),
                )
            return None
        seconds = time.monotonic() - began
        self._observer.stage_done(
            stage, batch_size=len(works) if batch_size is None else batch_size, seconds=seconds
        )
        return result

    def _encode(self, works: Sequence[Work]) -> Float[Tensor, "images prefix width"]:
        """Prefixes in the order of the images; each work keeps its embedding for the scores."""
        pixels = [work for work in works if work.has_pixels]
        embedded = [work for work in works if not work.has_pixels]
        parts = [self._prefix(group, self._features(group)) for group in (pixels, embedded) if group]
        order = {work.number: at for at, work in enumerate([*pixels, *embedded])}
        return torch.cat(parts)[[order[work.number] for work in works]]

    def _features(self, works: Sequence[Work]) -> ImageFeatures:
        images = torch.stack([work.image for work in works]).to(self._captioner.device)
        if works[0].has_pixels:
            return self._captioner.encode_image(self._captioner.clip.preprocess.normalize(images))
        unit = torch.nn.functional.normalize(images.float(), dim=-1)
        return ImageFeatures(unit, norm=images.float().norm(dim=-1))

    def _prefix(self, works: Sequence[Work], features: ImageFeatures) -> Float[Tensor, "images prefix width"]:
        for work, embedding in zip(works, features.embedding, strict=True):
            work.embedding = embedding
        return self._captioner.prefix(features)

    def _answer(self, ended: Iterable[Decoded]) -> None:
        finished: list[tuple[Work, Decoded]] = []
        for one in ended:
            work = self._in_flight.pop(one.ticket)
            if one.error is not None:
                fail(work.future, CaptioningError(str(one.error)))
            else:
                finished.append((work, one))
        if finished:
            self._score([work for work, _ in finished], [one for _, one in finished])

    def _score(self, works: Sequence[Work], decoded: Sequence[Decoded]) -> None:
        decode_s = [_next_stage(work) for work in works]
        captions = self._run(
            "score",
            works,
            lambda: score_images(
                [one.candidates for one in decoded],
                [work.embedding for work in works if work.embedding is not None],
                [work.options for work in works],
                clip=self._captioner.clip,
                tokenizer=self._captioner.tokenizer,
            ),
            batch_size=sum(len(one.candidates) for one in decoded),
        )
        for work, several, seconds in zip(works, captions or [], decode_s, strict=captions is not None):
            timings = StageTimings(work.queue_s, work.encode_s, seconds, _next_stage(work))
            answer(work.future, ImageCaptions(several, timings))


def _next_stage(work: Work) -> float:
    """Seconds in the stage that the image now leaves."""
    now = time.monotonic()
    seconds, work.stage_began = now - work.stage_began, now
    return seconds
