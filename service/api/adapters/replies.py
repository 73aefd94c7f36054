"""Captions as the text of a reply: whole, or in pieces as they are decided."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from models.generation import FinishReason
from service.api.exchange import Answered, CaptionStream, Exchange
from service.api.growing import GrowingTexts
from service.captioning import ImageInput, ImageOutcome
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions, ScoredCaption, StageTimings

_WORDS = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True)
class Choice:
    """One alternative: a caption of each image, one a line."""

    text: str
    finish_reason: FinishReason


@dataclass(frozen=True)
class Piece:
    """A bit of the text of a choice."""

    choice: int
    text: str


@dataclass(frozen=True)
class Reply:
    """Everything that a reply can say.

    Args:
        prompt_tokens: positions that the decoder read: the images' prefixes; a prompt is not read at all.
        completion_tokens: tokens of all captions in the reply.
        timings: the slowest of each stage over the images, in seconds.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int
    timings: StageTimings
    total_s: float


@dataclass(frozen=True)
class ReplyStream:
    """A reply in pieces, which ends with the whole; `source` is what has to be closed."""

    events: AsyncIterator[Piece | Reply]
    source: CaptionStream | None = None


def reply_of(answered: Answered) -> Reply:
    """The reply to a request that cannot succeed in part; raises the ServiceError of its first bad image."""
    answers = [_answer_of(outcome) for outcome in answered.outcomes]
    captions = list(zip(*(answer.captions for answer in answers), strict=False))
    return Reply(
        choices=tuple(_choice(several) for several in captions),
        prompt_tokens=len(answers) * answered.model.captioner.decoder.prefix_length,
        completion_tokens=sum(one.num_tokens for several in captions for one in several),
        timings=_slowest([answer.timings for answer in answers]),
        total_s=answered.total_s,
    )


async def open_reply(talk: Exchange, images: Sequence[ImageInput], options: CaptionOptions) -> ReplyStream:
    """A reply in pieces.

    One image's caption that is decided token by token comes as it is decided. A beam search, several captions
    and several images are decided first and sent word by word after.

    Raises:
        ServiceError: there is nothing to send, so that the answer still can have its own status.
    """
    is_single = options.strategy == "greedy" or (options.strategy == "sample" and options.num_captions == 1)
    if len(images) == 1 and is_single:
        stream = await talk.stream(images[0], options)
        growing = GrowingTexts(talk.model.captioner.tokenizer, options)
        return ReplyStream(_as_decided(stream, talk, growing), stream)
    return ReplyStream(_word_by_word(reply_of(await talk.captions(images, options))))


async def _as_decided(
    stream: CaptionStream, talk: Exchange, growing: GrowingTexts
) -> AsyncIterator[Piece | Reply]:
    async for event in stream:
        if isinstance(event, ImageOutcome):
            reply = reply_of(talk.answered([event]))
            if rest := growing.rest(reply.choices[0].text):
                yield Piece(0, rest)
            yield reply
        else:
            for text in growing.pieces(event).values():
                yield Piece(0, text)


async def _word_by_word(reply: Reply) -> AsyncIterator[Piece | Reply]:
    for index, choice in enumerate(reply.choices):
        for word in _WORDS.findall(choice.text):
            yield Piece(index, word)
    yield reply


def _answer_of(outcome: ImageOutcome) -> ImageCaptions:
    if outcome.error is not None:
        raise outcome.error
    if outcome.answer is None:
        raise ValueError("an image without an error has captions")
    return outcome.answer


def _choice(captions: Sequence[ScoredCaption]) -> Choice:
    was_cut = any(one.finish_reason == "length" for one in captions)
    return Choice("\n".join(one.text for one in captions), "length" if was_cut else "stop")


def _slowest(timings: Sequence[StageTimings]) -> StageTimings:
    return StageTimings(
        queue_s=max(one.queue_s for one in timings),
        encode_s=max(one.encode_s for one in timings),
        decode_s=max(one.decode_s for one in timings),
        score_s=max(one.score_s for one in timings),
    )
