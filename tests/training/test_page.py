"""The page of an evaluation: complete in itself, every text escaped, the right photos on it."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.training.reports import made_report
from training.cases import choose_cases
from training.comparison import compare
from training.data import Images
from training.history import History
from training.page import write_page
from training.report import Report

HOSTILE = '<script>alert("1")</script> & <img src=x onerror=alert(1)>'
CAPTIONS = [f"caption {row}" for row in range(30)]


class _Elements(HTMLParser):
    """Start tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Thirty small photos."""
    names = tuple(f"{row}.png" for row in range(len(CAPTIONS)))
    for row, name in enumerate(names):
        Image.new("RGB", (12, 8), (8 * row, 100, 100)).save(tmp_path / name)
    return Images(names, tuple(tmp_path / name for name in names))


def test_nothing_that_was_read_becomes_markup(images: Images, tmp_path: Path) -> None:
    report = made_report([HOSTILE, *CAPTIONS[1:]], version=HOSTILE, scorer=HOSTILE)
    page = _page(report, images, tmp_path, histories={HOSTILE: _history()})
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.text.count(HOSTILE) >= 3


def test_page_fetches_nothing(images: Images, tmp_path: Path) -> None:
    page = _page(made_report(CAPTIONS), images, tmp_path, histories={"run": _history()})
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), (
                tag,
                attributes,
            )
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_ids_in_the_charts_are_unique(images: Images, tmp_path: Path) -> None:
    page = _page(made_report(CAPTIONS), images, tmp_path, histories={"run": _history()})
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert ids
    assert len(ids) == len(set(ids))


def test_both_checkpoints_captions_and_references_are_there(images: Images, tmp_path: Path) -> None:
    report = made_report(CAPTIONS)
    against = made_report([f"older {row}" for row in range(30)], step=10, seed=1)
    page = _page(report, images, tmp_path, against=against)
    for row in range(30):
        assert f"caption {row}" in page.text
        assert f"older {row}" in page.text
        assert f"reference {row}" in page.text
    assert "unsupervised, step 10" in page.text
    assert "Gained most" in page.text


def test_checkpoints_of_the_same_step_are_told_apart_by_version(images: Images, tmp_path: Path) -> None:
    page = _page(made_report(CAPTIONS), images, tmp_path, against=made_report(CAPTIONS, version="ffff"))
    assert "unsupervised, step 90 (ffff)" in page.text


def test_no_photo_is_shown_twice_and_never_more_than_the_limit() -> None:
    report, against = made_report(CAPTIONS), made_report(CAPTIONS, seed=1)
    for limit in (0, 5, 17, 100):
        rows = [
            row for group in choose_cases(report, compare(report, against), limit=limit) for row in group.rows
        ]
        assert len(rows) == len(set(rows)) == min(limit, len(CAPTIONS))


def test_best_and_worst_come_in_order_of_their_figure() -> None:
    report = made_report(CAPTIONS)
    groups = {group.title: group.rows for group in choose_cases(report, None, limit=15)}
    similarity = report.scores("clip_similarity")
    assert similarity[groups["Highest CLIP similarity"][0]] == similarity.max()
    assert similarity[groups["Lowest CLIP similarity"][0]] == similarity.min()
    assert {"Highest CIDEr-D", "Lowest CIDEr-D", "By chance"} <= set(groups)


def test_without_references_there_is_no_word_of_cider(images: Images, tmp_path: Path) -> None:
    page = _page(made_report(CAPTIONS, labelled=False), images, tmp_path)
    assert "Highest CLIP similarity" in page.text
    assert "Highest CIDEr-D" not in page.text
    assert "No captions lie beside these photos" in page.text


def _history() -> History:
    figures = [{"cider_d": 40.0 + step, "r@1": 10.0 + step, "clip_similarity": 0.5} for step in range(3)]
    return History(
        losses=tuple((step, 1 / (step + 1)) for step in range(20)),
        evaluations=tuple((10 * step, values) for step, values in enumerate(figures)),
    )


def _page(
    report: Report,
    images: Images,
    folder: Path,
    *,
    against: Report | None = None,
    histories: dict[str, History] | None = None,
) -> _Elements:
    file = folder / "page.html"
    comparison = compare(report, against) if against else None
    write_page(file, report, comparison, images=images, histories=histories or {})
    return _Elements(file.read_text())
