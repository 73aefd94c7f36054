"""Charts as SVG that a page can take in, and as files."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from training.charts import HISTOGRAM_BINS, Chart, Series, bar_chart, histogram, line_chart, path_chart

LINES = [
    Series("with replay", [0, 10, 20], [1.0, 2.0, 4.0], spread=[0.1, 0.2, 0.3]),
    Series("without", [0, 10, 20], [1.0, 1.5, 1.2]),
]
CHARTS = [
    line_chart(LINES, title="lines", x_label="step", y_label="CIDEr-D"),
    path_chart(
        [Series("run", [40, 42, 41], [10, 15, 20], labels=["0", "50", "100"])],
        title="path",
        x_label="CIDEr-D",
        y_label="R@1 (%)",
    ),
    histogram({"a": [0.1, 0.2, 0.4], "b": [0.3, 0.3]}, title="spread", x_label="cosine", y_label="photos"),
    bar_chart({"A": {"8": 3, "9": 5}, "B": {"9": 4}}, title="bars", x_label="words", y_label="captions"),
]


@pytest.mark.parametrize("chart", CHARTS, ids=[chart.title for chart in CHARTS])
def test_svg_is_well_formed_and_the_same_every_time(chart: Chart) -> None:
    svg = chart.svg()
    element = ElementTree.fromstring(svg)
    assert element.get("viewBox")
    assert element.get("width") is None  # the page says how wide
    assert element.get("aria-label") == chart.title
    assert svg == chart.svg()


def test_text_stays_text_and_takes_the_colour_of_the_page() -> None:
    texts = _texts(CHARTS[0])
    assert {"step", "CIDEr-D", "with replay", "without"} <= texts
    assert "var(--chart-ink, " in CHARTS[0].svg()


def test_points_of_a_path_carry_their_steps() -> None:
    assert {"0", "50", "100"} <= _texts(CHARTS[1])


def test_one_series_needs_no_legend() -> None:
    assert "run" not in _texts(CHARTS[1])


def test_title_cannot_break_out_of_its_attribute() -> None:
    title = 'a "b" <c> & d'
    svg = line_chart(LINES, title=title, x_label="<x>", y_label="y").svg()
    assert ElementTree.fromstring(svg).get("aria-label") == title


def test_bars_stand_over_their_own_group() -> None:
    """The second series lacks the first group; its only bar is right of the second tick."""
    axes = CHARTS[3]._figure.axes[0]
    first, second = axes.containers
    assert [bar.get_height() for bar in first] == [3, 5]
    assert [bar.get_height() for bar in second] == [4]
    assert second[0].get_x() == pytest.approx(1.0)


def test_histogram_is_as_high_as_its_fullest_bin() -> None:
    samples = np.random.default_rng(0).normal(size=500).tolist()
    chart = histogram({"a": samples}, title="all", x_label="x", y_label="photos")
    outline = np.asarray(chart._figure.axes[0].patches[0].get_path().vertices)
    counts, edges = np.histogram(samples, HISTOGRAM_BINS)
    assert outline[:, 1].max() == counts.max()
    assert outline[:, 0].min() == pytest.approx(edges[0])


def test_saved_svg_follows_the_readers_dark_mode(tmp_path: Path) -> None:
    CHARTS[0].save(tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    assert "prefers-color-scheme: dark" in text
    assert ElementTree.fromstring(text).get("width")


def test_saved_png_is_opaque_and_large(tmp_path: Path) -> None:
    CHARTS[0].save(tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.width > 800
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"as \.svg or \.png"):
        CHARTS[0].save(tmp_path / "chart.gif")


def _texts(chart: Chart) -> set[str]:
    elements = ElementTree.fromstring(chart.svg()).iter("{http://www.w3.org/2000/svg}text")
    return {element.text or "" for element in elements}
