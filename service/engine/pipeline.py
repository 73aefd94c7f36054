"""The stages that images pass on the engine's thread: encode, prefill, decode, score."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from models.captioner import Captioner
from models.decoding import Decoded, DecodingBatch
from service.engine.encoding import Encoding, ImageEncoder
from service.engine.errors import CaptioningError
from service.engine.gpu import step_preparation
from service.engine.observer import EngineObserver, Stage
from service.engine.results import ImageCaptions, ImageScores, StageTimings
from service.engine.scoring import score_images, score_texts
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
        self._observer = observer
        self._in_flight: dict[int, Work] = {}
        self._encoder = ImageEncoder(captioner)
        self._encoding: Encoding | None = None
        self._batch = DecodingBatch(
            captioner.decoder,
            captioner.tokenizer,
            max_images=settings.max_images,
            max_rows=settings.max_rows,
            max_tokens=captioner.config.max_tokens,
            prepare=step_preparation(captioner.device, settings, max_tokens=captioner.config.max_tokens),
        )

    @property
    def is_empty(self) -> bool:
        return not self.is_decoding and not self.is_encoding

    @property
    def is_decoding(self) -> bool:
        return bool(self._in_flight)

    @property
    def is_encoding(self) -> bool:
        """Whether images are with the image tower; more are admitted when these have joined."""
        return self._encoding is not None

    def fits(self, works: Sequence[Work]) -> bool:
        """Whether these images could be admitted together now."""
        return self._batch.has_room([work.generation for work in works])

    @torch.inference_mode()
    def admit(self, works: Sequence[Work]) -> int:
        """Encodes images as one batch, which joins at once where that is done; returns how many ended."""
        for work in works:
            work.queue_s = _next_stage(work)
            self._observer.admitted(queue_s=work.queue_s, priority=work.priority)
        try:
            self._encoding = self._encoder.start(works)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, these images have failed and the rest go on
            self._fail("encode", works, error)
            return len(works)
        return self.join()

    @torch.inference_mode()
    def join(self) -> int:
        """Images that are encoded join: given texts are scored, of the others the first token is written.

        Does nothing while a GPU still encodes and there are captions to go on with.

        Returns:
            How many images are answered already.
        """
        encoding = self._encoding
        if encoding is None or (self.is_decoding and not encoding.is_done()):
            return 0
        self._encoding = None
        encoding.settle()
        seconds = time.monotonic() - encoding.began
        self._observer.stage_done("encode", batch_size=len(encoding.works), seconds=seconds)
        for work in encoding.works:
            work.encode_s = _next_stage(work)
        to_score = [work for work in encoding.works if work.texts is not None]
        for work in to_score:
            self._score_texts(work)
        if len(to_score) < len(encoding.works):
            self._begin([work for work in encoding.works if work.texts is None], encoding.prefixes)
        return len(to_score)

    @torch.inference_mode()
    def step(self) -> int:
        """Writes one token of every caption, scores and answers what ended; returns how many images ended."""
        works = list(self._in_flight.values())
        ended = self._run("decode", works, self._batch.step, batch_size=self._batch.num_rows)
        if ended is None:
            for ticket in self._in_flight:
                self._batch.drop(ticket)
            self._in_flight.clear()
            return len(works)
        self._answer(ended)
        self._tell_tokens(self._in_flight)
        return len(ended)

    def drop_settled(self) -> None:
        """Takes out images whose caller is gone or has been answered, as by a deadline."""
        for ticket, work in list(self._in_flight.items()):
            if work.future.done():
                self._batch.drop(ticket)
                del self._in_flight[ticket]

    def _run(
        self, stage: Stage, works: Sequence[Work], run: Callable[[], Result], *, batch_size: int | None = None
    ) -> Result | None:
        """The stage's result, or None after its failure was answered."""
        began = time.monotonic()
        try:
            result = run()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, these images have failed and the rest go on
            self._fail(stage, works, error)
            return None
        seconds = time.monotonic() - began
        self._observer.stage_done(
            stage, batch_size=len(works) if batch_size is None else batch_size, seconds=seconds
        )
        return result

    def _fail(self, stage: Stage, works: Sequence[Work], error: Exception) -> None:
        asked = sorted({str(work.request_id) for work in works})
        log.error(
            "the %s stage failed with %d images",
            stage,
            len(works),
            extra={"request_ids": asked},
            exc_info=error,
        )
        failure = f"the model failed in the {stage} stage: {type(error).__name__}"
        for work in works:
            fail(work.future, CaptioningError(failure))

    def _begin(self, works: Sequence[Work], prefixes: dict[int, Float[Tensor, "prefix width"]]) -> None:
        works = [work for work in works if self._is_wanted(work)]
        if not works:
            return
        options = [work.generation for work in works]

        def prefill() -> list[int]:
            return self._batch.add(torch.stack([prefixes[work.number] for work in works]), options)

        tickets = self._run("prefill", works, prefill)
        if tickets is not None:
            joined = dict(zip(tickets, works, strict=True))
            self._in_flight.update(joined)
            self._tell_tokens(joined)

    def _is_wanted(self, work: Work) -> bool:
        """Else it is answered without captions."""
        if work.wanted is None or work.embedding is None:
            return True
        try:
            is_wanted = work.wanted(work.embedding)
        except Exception:
            log.exception("nobody knows whether captions are wanted; they are written")
            return True
        if not is_wanted:
            timings = StageTimings(work.queue_s, work.encode_s, 0.0, 0.0)
            answer(work.future, ImageCaptions((), timings, embedding=work.embedding))
        return is_wanted

    def _tell_tokens(self, works: Mapping[int, Work]) -> None:
        for ticket, work in works.items():
            if work.on_tokens is None or not (written := self._batch.written(ticket)):
                continue
            try:
                work.on_tokens(written)
            except Exception:
                log.exception("a listener to tokens failed; it is told no more")
                work.on_tokens = None

    def _score_texts(self, work: Work) -> None:
        embedding, texts = work.embedding, work.texts
        if embedding is None or texts is None:
            raise ValueError("an image to score has an embedding and texts")
        scores = self._run(
            "score",
            [work],
            lambda: score_texts(embedding, texts, clip=self._captioner.clip),
            batch_size=len(texts.texts),
        )
        if scores is not None:
            timings = StageTimings(work.queue_s, work.encode_s, 0.0, _next_stage(work))
            answer(work.future, ImageScores(scores, timings))

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
            answer(work.future, ImageCaptions(several, timings, embedding=work.embedding))


def _next_stage(work: Work) -> float:
    """Seconds in the stage that the image now leaves."""
    now = time.monotonic()
    seconds, work.stage_began = now - work.stage_began, now
    return seconds
