"""Captions beside the photos of a server folder; a person's text is never overwritten."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from service.jobs.datasets import path_of
from service.jobs.documents import CaptionJob, Dataset, Item, ItemResult

PROVENANCE_FILE = ".semicap.jsonl"
"""In the dataset's folder: which texts are a machine's, by their content, from which model and when."""

_MAX_TEXT_BYTES = 1024 * 1024


def reason_to_skip(job: CaptionJob, dataset: Dataset, item: Item) -> str | None:
    """Why an item needs no caption: the job writes beside the photo and must leave the text there."""
    if not job.writes_to_folder or dataset.folder is None or job.policy != "skip":
        return None
    return "there is a text beside it" if _sidecar(path_of(dataset, item), job).exists() else None


@dataclass
class SidecarWriter:
    """Writes the texts of one job, the same however often it is run.

    Each text is noted in the provenance file before it is written: what a killed run wrote is known to the
    next one, which neither appends it twice nor takes it for a person's.
    """

    job: CaptionJob
    dataset: Dataset

    def __post_init__(self) -> None:
        self._root = Path(self.dataset.folder or "")
        self._notes = _read_notes(self._root / PROVENANCE_FILE)
        _end_torn_line(self._root / PROVENANCE_FILE)

    def write(self, result: ItemResult) -> bool:
        """Puts the best caption beside its photo as the policy says; whether it is there.

        Raises:
            OSError: the folder cannot be written.
        """
        fields = result.model_dump()
        target = _sidecar(self._root / result.file_name, self.job)
        there = _read_text(target)
        mine = self._notes.get(result.file_name, [])
        if there is not None and any(
            note["sha256"] == _sha256(there) and note["job"] == self.job.id for note in mine
        ):
            return True
        text = self._combined(there, fields["captions"][0]["text"], is_machine=_is_noted(there, mine))
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

    def _combined(self, there: str | None, caption: str, *, is_machine: bool) -> str | None:
        if there is None or not there.strip():
            return caption + "\n"
        match self.job.policy:
            case "append":
                return f"{there.rstrip()}\n{caption}\n"
            case "prepend":
                return f"{caption}\n{there.rstrip()}\n"
            case "overwrite":
                return caption + "\n"
            case "overwrite-machine":
                return caption + "\n" if is_machine else None
            case "skip":
                return None

    def _note(self, note: dict[str, str]) -> None:
        with (self._root / PROVENANCE_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(note, ensure_ascii=False) + "\n")
        self._notes.setdefault(note["file_name"], []).append(note)


def _sidecar(photo: Path, job: CaptionJob) -> Path:
    return photo.with_suffix(f".{job.sidecar}")


def _is_noted(text: str | None, notes: list[dict[str, str]]) -> bool:
    return text is not None and _sha256(text) in {note["sha256"] for note in notes}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _read_notes(path: Path) -> dict[str, list[dict[str, str]]]:
    notes: dict[str, list[dict[str, str]]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
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


def _write_whole(target: Path, text: str) -> None:
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(target)
