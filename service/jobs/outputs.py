"""What a finished job leaves: JSON lines always; CSV, metadata.jsonl, texts, XMP, webdataset on request."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

from service.jobs.documents import ItemResult, OutputKind
from service.jobs.tar_stream import tar_of
from service.jobs.text_names import TextNames

Rows = Iterable[dict[str, Any]]
ReadPhoto = Callable[[int], bytes | None]

CAPTIONS = "captions.jsonl"
ERRORS = "errors.jsonl"
DUPLICATES = "duplicates.jsonl"

JSON_LINES = "application/x-ndjson"

FILES: dict[OutputKind, tuple[str, str]] = {
    "csv": ("captions.csv", "text/csv; charset=utf-8"),
    "metadata": ("metadata.jsonl", JSON_LINES),
    "txt": ("captions-txt.tar", "application/x-tar"),
    "caption": ("captions-caption.tar", "application/x-tar"),
    "xmp": ("captions-xmp.tar", "application/x-tar"),
    "webdataset": ("webdataset.tar", "application/x-tar"),
}
"""File name and media type of each output."""

_CSV_FIELDS = (
    "item",
    "file_name",
    "text",
    "clip_score",
    "clip_similarity",
    "log_likelihood",
    "model",
    "version",
    "date",
)
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmp:CreatorTool="{tool}" xmp:MetadataDate="{date}">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


_NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""XML 1.0, production 2: no parser reads a file that has one of these, however it is written."""


def captioned(results: Iterable[ItemResult]) -> Iterator[dict[str, Any]]:
    """The rows of what was captioned."""
    return (_row(result) for result in results if result.outcome == "captioned")


def errors(results: Iterable[ItemResult]) -> Iterator[dict[str, Any]]:
    """The rows of what failed: file, and the problem with its reason."""
    return (
        {name: value for name, value in _row(result).items() if name != "file"}
        for result in results
        if result.outcome == "failed"
    )


def json_lines(rows: Rows) -> Iterator[bytes]:
    """One JSON object a line."""
    return (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def output_parts(
    kind: OutputKind, rows: Rows, *, read_photo: ReadPhoto, text_names: Callable[[], TextNames]
) -> Iterator[bytes]:
    """An output in pieces.

    Args:
        read_photo: the bytes of an item, by number; None leaves it out.
        text_names: of the dataset, asked for where texts have names.
    """
    match kind:
        case "csv":
            return _csv(rows)
        case "metadata":
            return json_lines({"file_name": row["file_name"], "text": _text(row)} for row in rows)
        case "txt" | "caption":
            names = text_names()
            return tar_of((_named(row, names, kind), (_text(row) + "\n").encode()) for row in rows)
        case "xmp":
            names = text_names()
            return tar_of((_named(row, names, kind), xmp_of(row)) for row in rows)
        case "webdataset":
            return tar_of(_samples(rows, read_photo))


def xmp_of(row: dict[str, Any]) -> bytes:
    """An XMP sidecar with the best caption as the description, and which model wrote it."""
    tool = f"semicap {row['model']['name']}:{row['model']['version']}"
    values = {"tool": tool, "date": row["date"], "text": _text(row)}
    return _XMP.format(**{name: _escaped(value) for name, value in values.items()}).encode()


def _escaped(value: str) -> str:
    return escape(_NOT_IN_XML.sub("", value), {'"': "&quot;"})


def _row(result: ItemResult) -> dict[str, Any]:
    row = result.model_dump(mode="json")
    del row["outcome"]
    row.pop("embedding", None)
    return row


def _text(row: dict[str, Any]) -> str:
    return str(row["captions"][0]["text"])


def _named(row: dict[str, Any], names: TextNames, suffix: str) -> str:
    return f"{names.of(row['item'], row['file_name'])}.{suffix}"


def _csv(rows: Rows) -> Iterator[bytes]:
    yield _csv_line(_CSV_FIELDS)
    for row in rows:
        best = row["captions"][0]
        values = {
            **best,
            "item": row["item"],
            "file_name": row["file_name"],
            "model": row["model"]["name"],
            "version": row["model"]["version"],
            "date": row["date"],
        }
        yield _csv_line(_defused(values[name]) for name in _CSV_FIELDS)


def _csv_line(values: Iterable[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()


def _defused(value: Any) -> Any:
    """A file's name may begin like a formula, which a spreadsheet would run."""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


def _samples(rows: Rows, read_photo: ReadPhoto) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        key = f"{row['item']:08d}"
        suffix = PurePosixPath(row["file_name"]).suffix.lower() or ".jpg"
        photo = read_photo(row["item"])
        if photo is None:
            continue
        yield key + suffix, photo
        yield key + ".txt", (_text(row) + "\n").encode()
        yield key + ".json", json.dumps(row, ensure_ascii=False).encode()
