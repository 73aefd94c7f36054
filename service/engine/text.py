"""What is done to a caption's text after it is decoded, and what of an unfinished one is certain."""

import re

from service.engine.options import CaptionOptions

DANGLING = " ,;:-"
ENDS = (".", "!", "?", "\N{HORIZONTAL ELLIPSIS}")

_SENTENCE_END = re.compile(r"(?<!\bst)(?<!\bmr)(?<!\bmrs)(?<!\bms)(?<!\bdr)[.!?]+(?=\s)", re.IGNORECASE)
_LAST_WORD = re.compile(r"(?:^|\s+)\S*[^\W_]\S*(?:\s+[\W_]+)*$")


def finished_text(text: str, options: CaptionOptions) -> str:
    """A decoded caption as the caller wants it."""
    text = _shaped(text, options)
    match options.final_stop:
        case "add":
            return _with_stop(text, options.max_chars)
        case "remove":
            return cut_at_word(text.rstrip(" .") or text, max_chars=options.max_chars)
    return cut_at_word(text, max_chars=options.max_chars)


def certain_text(text: str, options: CaptionOptions) -> str:
    """The part of an unfinished caption with which the finished one will begin.

    The last word may still grow, and what stands at the end may still go: both are held back.
    """
    last = _LAST_WORD.search(text)
    certain = _shaped(text[: last.start()] if last else "", options)
    cut = cut_at_word(certain, max_chars=_room(options))
    return cut.rstrip(DANGLING + "".join(ENDS))


def cut_at_word(text: str, *, max_chars: int | None) -> str:
    """The words that fit into `max_chars` characters, no comma dangling; the first word always stays."""
    if max_chars is None or len(text) <= max_chars:
        return text
    end = text.rfind(" ", 0, max_chars + 1)
    kept = text[:end] if end > 0 else text.split(" ", 1)[0]
    return kept.rstrip(DANGLING) or kept


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence or line."""
    line = text.split("\n", 1)[0]
    end = _SENTENCE_END.search(line)
    return line[: end.end()] if end else line


def _shaped(text: str, options: CaptionOptions) -> str:
    text = first_sentence(text) if options.one_sentence else text
    return text[:1].upper() + text[1:] if options.sentence_case else text


def _with_stop(text: str, max_chars: int | None) -> str:
    cut = cut_at_word(text, max_chars=max_chars)
    if not cut or cut.endswith(ENDS):
        return cut
    room = None if max_chars is None else max_chars - 1
    return cut_at_word(cut, max_chars=room).rstrip(DANGLING) + "."


def _room(options: CaptionOptions) -> int | None:
    """Characters that the caption has whatever its end will be."""
    if options.max_chars is None or options.final_stop != "add":
        return options.max_chars
    return options.max_chars - 1
