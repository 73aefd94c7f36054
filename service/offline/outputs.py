"""Where captions of files go; each output knows what it has already, so that a second run goes on."""

import json
import os
from pathlib import Path
from typing import IO, Any, Protocol

Record = dict[str, Any]
"""One photo's line: file_name, captions, image, warnings, model, date."""


class OutputError(ValueError):
    """An output that cannot be written or gone on with; the message names the file and what to do."""


class Output(Protocol):
    """A place for captions.

    Args:
        remembers: whether a later run finds here what an earlier one wrote.
    """

    remembers: bool

    def has(self, photo: Path) -> bool:
        """Whether the photo is done here."""

    def write(self, photo: Path, record: Record) -> None:
        """Adds a photo's captions; whole or not at all."""

    def close(self) -> None:
        """Called once at the end, however it came."""


class JsonLines:
    """One JSON object a line to a stream, such as standard output."""

    remembers = False

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def has(self, photo: Path) -> bool:
        return False

    def write(self, photo: Path, record: Record) -> None:
        self.stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


class HumanLines:
    """Captions to read, the best beside the file's name."""

    remembers = False

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def has(self, photo: Path) -> bool:
        return False

    def write(self, photo: Path, record: Record) -> None:
        for index, caption in enumerate(record["captions"]):
            name = photo if index == 0 else " " * len(str(photo))
            self.stream.write(f"{name}  {caption['text']}  (CLIPScore {caption['clip_score']:.3f})\n")
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


class JsonLinesFile:
    """A JSONL file that grows; a photo with a line in it is done.

    Raises:
        OutputError: the file has a line that is not a caption record.
    """

    remembers = True

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._done = _file_names(path)
        self._lines = JsonLines(path.open("a", encoding="utf-8"))

    def has(self, photo: Path) -> bool:
        return str(photo) in self._done

    def write(self, photo: Path, record: Record) -> None:
        self._lines.write(photo, record)
        self._done.add(str(photo))

    def close(self) -> None:
        self._lines.stream.close()


class Sidecars:
    """A .txt with the best caption beside each photo; one that is there already is left as it is.

    Args:
        replaces: sidecars that are there are written again.
    """

    remembers = True

    def __init__(self, *, replaces: bool = False) -> None:
        self.replaces = replaces

    def has(self, photo: Path) -> bool:
        return not self.replaces and sidecar_of(photo).exists()

    def write(self, photo: Path, record: Record) -> None:
        target = sidecar_of(photo)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.write_text(record["captions"][0]["text"] + "\n", encoding="utf-8")
        scratch.replace(target)

    def close(self) -> None:
        pass


def sidecar_of(photo: Path) -> Path:
    """The text file that belongs to a photo."""
    return photo.with_suffix(".txt")


def _cut_torn_line(path: Path) -> None:
    """A run that was killed may leave half a line; its photo is captioned again."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _file_names(path: Path) -> set[str]:
    if not path.exists():
        return set()
    names = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            names.add(str(json.loads(line)["file_name"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise OutputError(
                f"line {number} of {path} is not a caption record; name another --output or mend that line"
            ) from error
    return names
