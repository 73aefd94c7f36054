"""An evaluation as one HTML file: figures, charts, and photos with their captions, nothing fetched."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from models.preprocess import to_rgb
from training.cases import choose_cases
from training.charts import Chart
from training.comparison import Comparison
from training.data import ImageFile, Images
from training.evaluation_charts import distribution_charts, history_charts
from training.figures import FIGURES, SECOND
from training.history import History
from training.pixels import register_heif
from training.report import Report
from training.tables import figure_rows, labels, notes

MAX_PHOTOS = 48
THUMBNAIL_PIXELS = 320
"""Longer edge: sharp on a card 160 to 320 CSS pixels wide; some 15 kB a photo."""
THUMBNAIL_QUALITY = 78
HEADLINES = ("cider_d", "clip_score", "r@1", SECOND + "r@1", "distinct_captions")
CARD_SCORES = {
    "clip_similarity": "similarity",
    SECOND + "clip_similarity": "by the second scorer",
    "cider_d": "CIDEr-D",
}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class CardCaption:
    """A checkpoint's caption of a photo; `found` says whether it finds the photo first among all (r@1)."""

    checkpoint: str
    text: str
    scores: Sequence[tuple[str, str]]
    found: bool


@dataclass(frozen=True)
class PageTable:
    """A table that stands before the figures, for whoever adds to an evaluation.

    Args:
        text: a paragraph before the rows.
        head: names of the columns; empty for none.
        rows: cells; a row whose last cell is in `BAD_CELLS` is marked.
    """

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


BAD_CELLS = frozenset({"no"})


@dataclass(frozen=True)
class Card:
    """A photo, what was written of it, and what people wrote.

    Args:
        picture: data URL of a thumbnail.
    """

    image: str
    picture: str
    captions: Sequence[CardCaption]
    references: Sequence[str]


def write_page(
    path: Path,
    report: Report,
    comparison: Comparison | None,
    *,
    images: Images,
    histories: Mapping[str, History],
    max_photos: int = MAX_PHOTOS,
    tables: Sequence[PageTable] = (),
) -> None:
    """Writes the page; it holds at most `max_photos` photos, as thumbnails.

    Args:
        images: those that were evaluated, and may be more.
        histories: by label of the checkpoint, of those that lie in a run's folder.
    """
    reports = [report, comparison.against] if comparison else [report]
    differences = comparison.differences if comparison else {}
    rows = figure_rows(reports, differences)
    files = dict(zip(images.ids, images.files, strict=True))
    cases = [
        (group, [_card(reports, row, files) for row in group.rows])
        for group in choose_cases(report, comparison, limit=max_photos)
    ]
    path.write_text(
        _TEMPLATES.get_template("evaluation.html.j2").render(
            reports=reports,
            labels=labels(reports),
            report=report,
            has_differences=bool(differences),
            headlines=[row for name in HEADLINES for row in rows if row.figure.name == name],
            rows=rows,
            notes=notes(reports),
            tables=tables,
            bad_cells=BAD_CELLS,
            distributions=_inline(distribution_charts(reports)),
            histories=[(label, _inline(history_charts(history))) for label, history in histories.items()],
            cases=cases,
        ),
        encoding="utf-8",
        errors="backslashreplace",  # the odd bytes of a file name
    )


def _inline(charts: Sequence[Chart]) -> list[tuple[str, Markup]]:
    return [(chart.title, Markup(chart.svg())) for chart in charts]


def _card(reports: Sequence[Report], row: int, files: Mapping[str, ImageFile]) -> Card:
    first = reports[0].captions[row]
    return Card(first.image, _thumbnail(files[first.image]), list(_captions(reports, row)), first.references)


def _captions(reports: Sequence[Report], row: int) -> Iterator[CardCaption]:
    for label, report in zip(labels(reports), reports, strict=True):
        written = report.captions[row]
        scores = [
            (title, FIGURES[name].shown(written.scores[name]))
            for name, title in CARD_SCORES.items()
            if name in written.scores
        ]
        yield CardCaption(label, written.caption, scores, written.scores["r@1"] > 0)


def _thumbnail(file: ImageFile) -> str:
    buffer = io.BytesIO()
    register_heif()
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
        picture = to_rgb(image)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    picture.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
