"""What is done to a caption's text after it is decoded."""

DANGLING = " ,;:-"


def cut_at_word(text: str, *, max_chars: int | None) -> str:
    """The words that fit into `max_chars` characters, no comma dangling; the first word always stays."""
    if max_chars is None or len(text) <= max_chars:
        return text
    end = text.rfind(" ", 0, max_chars + 1)
    kept = text[:end] if end > 0 else text.split(" ", 1)[0]
    return kept.rstrip(DANGLING) or kept
