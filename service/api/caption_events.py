"""The server-sent events of POST /v1/captions/stream."""

from collections.abc import AsyncIterator

from service.api.answers import captions_response
from service.api.exchange import Answered, CaptionStream, Exchange
from service.api.growing import GrowingTexts
from service.api.live import sent_event
from service.api.schemas import Hypothesis, Token
from service.captioning import ImageOutcome, Written
from service.engine.options import CaptionOptions
from service.problems import problem_of


async def caption_events(
    stream: CaptionStream, talk: Exchange, *, growing: GrowingTexts, options: CaptionOptions
) -> AsyncIterator[str]:
    """What is certain of each caption (a beam: its best hypothesis), then the result or the error."""
    async for event in stream:
        if isinstance(event, ImageOutcome):
            yield _last_event(talk.answered([event]))
        elif options.strategy == "beam":
            if (text := growing.hypothesis(event)) is not None:
                yield sent_event(Hypothesis(text=text), event="hypothesis")
        else:
            for piece in _token_events(growing, event):
                yield piece


def _token_events(growing: GrowingTexts, written: Written) -> list[str]:
    pieces = growing.pieces(written).items()
    return [sent_event(Token(index=index, text=text), event="token") for index, text in pieces]


def _last_event(answered: Answered) -> str:
    error = answered.outcomes[0].error
    if error is not None:
        return sent_event(problem_of(error), event="error")
    return sent_event(captions_response(answered), event="result")
