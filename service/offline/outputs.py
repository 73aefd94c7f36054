"""Where captions of files go; each output knows what it has already, so that a second run goes on."""

import errno
import fcntl
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

Record = dict[str, Any]
"""One photo's line: file_name, captions, image, warnings, model, date."""

_BEGINNING = b'{"file_name": '
_STDOUT = "standard output"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class OutputError(ValueError):
    """An output that cannot be written or gone on with; the message names the file and what to do."""


class LostOutputError(OutputError):
    """An output that takes nothing more, such as a full disk: it ends the run."""


class Output(Protocol):
    """A place for captions.

    Args:
        remembers: whether a later run finds here what an earlier one wrote.
    """

    remembers: bool

    def has(self, photo: Path) -> bool:
        """Whether the photo is done here."""

    def write(self, photo: Path, record: Record) -> None:
        """Adds a photo's captions; whole or not at all.

        Raises:
            OutputError, OSError: they cannot be written here.
            LostOutputError: nor can those of any other photo.
        """

    def close(self) -> None:
        """Called once at the end, however it came."""


class Lines(Protocol):
    """Where lines go: a text stream, or a terminal that has a progress bar on it too."""

    @property
    def encoding(self) -> str: ...

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


class JsonLines:
    """One JSON object a line to a stream, such as standard output."""

    remembers = False

    def __init__(self, stream: Lines, name: str = _STDOUT) -> None:
        self.stream = stream
        self.name = name

    def has(self, photo: Path) -> bool:
        return False

    def write(self, photo: Path, record: Record) -> None:
        try:
            _put(json.dumps(record, ensure_ascii=False) + "\n", self.stream, name=self.name)
        except UnicodeEncodeError as error:
            raise OutputError(f"its path is not text in {error.encoding.upper()}; rename it") from error

    def close(self) -> None:
        pass


class HumanLines:
    """Captions to read, the best beside the file's name; what the stream's encoding lacks is escaped."""

    remembers = False

    def __init__(self, stream: Lines) -> None:
        self.stream = stream

    def has(self, photo: Path) -> bool:
        return False

    def write(self, photo: Path, record: Record) -> None:
        for index, caption in enumerate(record["captions"]):
            name = shown(photo) if index == 0 else " " * len(shown(photo))
            line = f"{name}  {caption['text']}  (CLIPScore {caption['clip_score']:.3f})\n"
            encoding = self.stream.encoding or "utf-8"
            _put(line.encode(encoding, "backslashreplace").decode(encoding), self.stream, name=_STDOUT)

    def close(self) -> None:
        pass


class JsonLinesFile:
    """A JSONL file that grows; a photo with a line in it is done.

    Raises:
        OutputError: the file is something else, or another run writes it; nothing in it was changed.
    """

    remembers = True

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a", encoding="utf-8", newline="\n")
            try:
                _lock(stream, path)
                self._done, unended = _read(path)
                if unended:
                    _end_line(stream, unended, whole_bytes=path.stat().st_size - len(unended))
            except BaseException:
                stream.close()
                raise
        except OSError as error:
            raise OutputError(
                f"{shown(path)} cannot be written ({error.strerror or error}); name another --output"
            ) from error
        self._stream = stream
        self._lines = JsonLines(stream, shown(path))

    def has(self, photo: Path) -> bool:
        return str(photo) in self._done

    def write(self, photo: Path, record: Record) -> None:
        try:
            self._lines.write(photo, record)
        except LostOutputError as error:
            with suppress(OSError):  # it would try once more to write the same
                self.close()
            raise LostOutputError(f"{error}; the same command goes on from here") from error
        self._done.add(str(photo))

    def close(self) -> None:
        self._stream.close()


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
        if target == photo:
            raise OutputError("its sidecar would be the photo itself; rename it")
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            scratch.write_text(record["captions"][0]["text"] + "\n", encoding="utf-8")
            scratch.replace(target)
        except OSError as error:
            reason = f"{target.name} cannot be written: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise LostOutputError(f"{reason}; the same command goes on from here") from error
            raise OutputError(reason) from error
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)

    def close(self) -> None:
        pass


def sidecar_of(photo: Path) -> Path:
    """The text file that belongs to a photo."""
    return photo.with_suffix(".txt")


def shown(path: Path) -> str:
    """A path to read, in one line; bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _put(text: str, stream: Lines, *, name: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LostOutputError(f"{name} cannot be written ({error.strerror or error})") from error


def _lock(stream: TextIO, path: Path) -> None:
    """Two runs would write each photo twice, and one cut off the line that the other is writing as torn."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"another run is writing {shown(path)}; wait for its end, or name another --output"
        ) from error


def _read(path: Path) -> tuple[set[str], bytes]:
    """The photos with a line in the file, and its last line where that has no end.

    Raises:
        OutputError: a line is not a caption record, and the last one not the beginning of one either.
    """
    names: set[str] = set()
    line = b""
    if not path.is_file():
        return names, line
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):  # at "\n" alone: a name may have other line separators
            if line.endswith(b"\n") or not _is_torn(line):
                names.add(_file_name(line, place=f"line {number} of {shown(path)}"))
    return names, b"" if line.endswith(b"\n") else line


def _end_line(stream: TextIO, unended: bytes, *, whole_bytes: int) -> None:
    """A run that was killed may leave part of a line; its photo is captioned again."""
    if _is_torn(unended):
        stream.truncate(whole_bytes)
    else:
        stream.write("\n")


def _is_torn(line: bytes) -> bool:
    """Whether it can only be the beginning of a record that this program wrote."""
    if not (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _file_name(line: bytes, *, place: str) -> str:
    try:
        record = json.loads(line)
        if isinstance(record["captions"], list) and isinstance(record["file_name"], str):
            return str(record["file_name"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise OutputError(
        f"{place} is not a caption record, so the file is left as it is; "
        "name another --output, or mend that line"
    )
