"""The commands that README.md tells its readers to type."""

import re
from collections.abc import Iterator
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"

_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )?(?:make|curl|pip|(?:\.venv/bin/)?semicap) ")


def commands() -> list[str]:
    """Every command once, in blocks and inside of sentences, without the comments behind it."""
    found = [piece.partition(" #")[0].strip() for piece in _pieces(README.read_text())]
    return list(dict.fromkeys(piece for piece in found if _COMMAND.match(piece)))


def _pieces(text: str) -> Iterator[str]:
    is_block = False
    for line in text.splitlines():
        if line.startswith("```"):
            is_block = not is_block
        elif is_block:
            yield line
        else:
            yield from _INLINE.findall(line)
