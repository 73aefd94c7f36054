"""Captions beside the photos of a server folder; a person's text is never overwritten."""

import codecs
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.errors import UnreadableFileError
from service.jobs.documents import CaptionJob, Dataset, Item, ItemResult
from service.jobs.text_names import TextNames, TextNamesOf
from service.problems import problem_of
from service.sizes import size_text

PROVENANCE_FILE = ".semicap.jsonl"
"""In the dataset's folder: which texts are a machine's, by their content, from which model and when."""

_MAX_TEXT_BYTES = 1024 * 1024
"""Of a text that a caption is put to."""

_MOST_READ_BYTES = 2 * _MAX_TEXT_BYTES
"""More than such a text has with its caption: a second run knows it again."""


class TextLeftError(OSError):
    """A text that no caption can be put to; the message says why."""


def settled_beside(
    job: CaptionJob, dataset: Dataset, number: int, item: Item, *, text_names: TextNamesOf
) -> ItemResult | None:
    """What becomes of an item that the text beside it keeps from being captioned; None when nothing does."""
    if not job.writes_to_folder or dataset.folder is None:
        return None
    text = Path(dataset.folder) / f"{text_names(dataset.id).of(number, item.name)}.{job.sidecar}"
    if job.policy == "skip" and text.exists():
        return _result(number, item, "skipped", reason="there is a text beside it")
    try:
        if job.policy in ("append", "prepend"):
            _check_combinable(text, _read(text) or b"")
    except TextLeftError as error:
        problem = problem_of(UnreadableFileError(str(error))).model_dump()
        return _result(number, item, "failed", problem=problem, file=None)  # a retry looks at the text again
    except OSError:
        return None  # writing it says so
    return None


@dataclass
class SidecarWriter:
    """Writes the texts of one job, the same however often it is run.

    Each text is noted in the provenance file before it is written: what a killed run wrote is known to the
    next one, which neither appends it twice nor takes it for a person's.
    """

    job: CaptionJob
    dataset: Dataset
    names: TextNames

    def __post_init__(self) -> None:
        self._root = Path(self.dataset.folder or "")
        self._notes = _read_notes(self._root / PROVENANCE_FILE)
        _end_torn_line(self._root / PROVENANCE_FILE)

    def write(self, result: ItemResult) -> bool:
        """Puts the best caption beside its photo as the policy says; whether it is there.

        Raises:
            OSError: the folder cannot be written, or no caption can be put to the text that is there.
        """
        fields = result.model_dump()
        target = self._root / f"{self.names.of(result.item, result.file_name)}.{self.job.sidecar}"
        there = _read(target)
        mine = self._notes.get(result.file_name, [])
        if there is not None and any(
            note["sha256"] == _sha256(there) and note["job"] == self.job.id for note in mine
        ):
            return True
        caption = (fields["captions"][0]["text"] + "\n").encode()
        text = self._combined(target, there, caption, is_machine=_is_noted(there, mine))
        if text is None:
            return False
        note = {
            "file_name": result.file_name,
            "sha256": _sha256(text),
            "job": self.job.id,
            "model": fields["model"],
            "date": fields["date"],
        }
        self._note(note)
        _write_whole(target, text)
        return True

    def _combined(
        self, target: Path, there: bytes | None, caption: bytes, *, is_machine: bool
    ) -> bytes | None:
        if there is None or not there.strip():
            return caption
        match self.job.policy:
            case "append":
                _check_combinable(target, there)
                return there + (b"" if there.endswith(b"\n") else b"\n") + caption
            case "prepend":
                _check_combinable(target, there)
                mark = codecs.BOM_UTF8 if there.startswith(codecs.BOM_UTF8) else b""
                return mark + caption + there.removeprefix(mark)
            case "overwrite":
                return caption
            case "overwrite-machine":
                return caption if is_machine else None
            case "skip":
                return None

    def _note(self, note: dict[str, str]) -> None:
        with (self._root / PROVENANCE_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(note, ensure_ascii=False) + "\n")
        self._notes.setdefault(note["file_name"], []).append(note)


def _result(number: int, item: Item, outcome: str, **more: Any) -> ItemResult:
    return ItemResult.model_validate({"item": number, "file_name": item.name, "outcome": outcome, **more})


def _check_combinable(path: Path, text: bytes) -> None:
    """A person's text is never changed: what cannot be read as text is not written either."""
    if len(text) > _MAX_TEXT_BYTES:
        raise TextLeftError(f"{path.name} has more than {size_text(_MAX_TEXT_BYTES)}; it is left as it is")
    try:
        if "\0" not in text.decode():  # UTF-16 without a mark
            return
    except UnicodeDecodeError:
        pass
    raise TextLeftError(f"{path.name} is not UTF-8 text; it is left as it is")


def _is_noted(text: bytes | None, notes: list[dict[str, str]]) -> bool:
    return text is not None and _sha256(text) in {note["sha256"] for note in notes}


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_READ_BYTES)
    except FileNotFoundError:
        return None


def _read_notes(path: Path) -> dict[str, list[dict[str, str]]]:
    notes: dict[str, list[dict[str, str]]] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():  # as text it would part names at other separators too
            try:
                note = json.loads(line)
                notes.setdefault(note["file_name"], []).append(note)
            except (ValueError, KeyError, TypeError):
                continue  # the torn line of a killed run
    return notes


def _end_torn_line(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _write_whole(target: Path, text: bytes) -> None:
    scratch = target.with_name(f".semicap-{uuid4().hex[:12]}")  # short, as the name may be as long as can be
    try:
        scratch.write_bytes(text)
        scratch.replace(target)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
