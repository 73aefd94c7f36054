"""Small charts for reports: lines over steps, one figure against another, distributions, bars.

As SVG they take the colours of the page they are put into (its CSS variables --chart-ink and --chart-grid); a
saved file follows the reader's light or dark setting by itself.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE_INCHES = (4.6, 2.9)
"""Small, so that 9 point labels are still readable when a phone scales it to its width."""
PNG_DPI = 200
HISTOGRAM_BINS = 40

SERIES_COLOURS = ("#2f7fc1", "#d9731a", "#2a9d72", "#a765b0", "#b08a1e", "#c2506a")
"""Readable on white and on near-black; markers and dashes tell series apart without colour."""
_MARKERS, _DASHES = ("o", "s", "^", "D", "v", "P"), ("-", "--", "-.", ":", "-", "--")
_MAX_MARKED_POINTS = 30
_MAX_POINT_LABELS, _MAX_GROUP_LABELS = 6, 14
_LEGEND_LINE_CHARACTERS = 64
_LEGEND_SAMPLE_CHARACTERS = 9
"""What the line before a name takes."""

# Written into the SVG as they are, then replaced by variables of these names.
_THEME = {"#4c5259": "--chart-ink", "#d3d7db": "--chart-grid"}
_INK, _GRID = _THEME
_DARK = {"--chart-ink": "#b9c0c8", "--chart-grid": "#3a4048"}

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.color": _GRID,
    "ytick.labelcolor": _INK,
}


@dataclass(frozen=True)
class Series:
    """A named line.

    Args:
        spread: drawn as a band, y minus and plus this; empty for none.
        labels: text beside points, such as steps; empty for none, "" for a point without.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    labels: Sequence[str] = ()


class Chart:
    """A drawn chart."""

    def __init__(self, figure: Figure, title: str) -> None:
        self._figure = figure
        self.title = title

    def svg(self) -> str:
        """An <svg> element to put into HTML."""
        element = self._svg_document()
        element = element[element.index("<svg") :]
        return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", element, count=1, flags=re.DOTALL)

    def save(self, path: Path) -> None:
        """Writes .svg, or .png on white.

        Raises:
            ValueError: another suffix.
        """
        if path.suffix == ".svg":
            path.write_text(_with_dark_mode(self._svg_document()), encoding="utf-8")
        elif path.suffix == ".png":
            self._figure.savefig(path, dpi=PNG_DPI, facecolor="white")
        else:
            raise ValueError(f"{path}: charts are written as .svg or .png")

    def _svg_document(self) -> str:
        buffer = io.StringIO()
        # The salt makes ids the same in every run, and different in two charts on one page.
        text_as_text: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": self.title}
        with rc_context(text_as_text):
            self._figure.savefig(
                buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        return _themed(buffer.getvalue(), self.title)


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Chart:
    """Several series over one axis, each with a band where it has a spread."""
    figure, axes = _axes(x_label, y_label)
    for at, one in enumerate(series):
        _draw_line(axes, one, at, marked=len(one.x) <= _MAX_MARKED_POINTS)
        if len(one.spread):
            y, spread = np.asarray(one.y), np.asarray(one.spread)
            axes.fill_between(one.x, y - spread, y + spread, color=_colour(at), alpha=0.18, linewidth=0)
        _draw_labels(axes, one)
    return _finished(figure, title, names=[one.name for one in series])


def path_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> Chart:
    """One figure against another, points joined in the order of training; the last one stands out."""
    figure, axes = _axes(x_label, y_label)
    for at, one in enumerate(series):
        _draw_line(axes, one, at, marked=True)
        axes.plot(one.x[-1:], one.y[-1:], _MARKERS[at % len(_MARKERS)], color=_colour(at), markersize=8)
        _draw_labels(axes, one)
    axes.margins(0.12)
    return _finished(figure, title, names=[one.name for one in series])


def histogram(samples: Mapping[str, Sequence[float]], *, title: str, x_label: str, y_label: str) -> Chart:
    """Distributions over common bins; a dashed line marks each mean."""
    figure, axes = _axes(x_label, y_label)
    edges: Any = np.histogram_bin_edges(
        np.concatenate([np.asarray(values) for values in samples.values()]), HISTOGRAM_BINS
    )
    for at, (name, values) in enumerate(samples.items()):
        colour = _colour(at)
        axes.hist(values, edges, histtype="stepfilled", color=colour, alpha=0.22)
        axes.hist(values, edges, histtype="step", color=colour, linewidth=1.4, label=name)
        axes.axvline(float(np.mean(values)), color=colour, linestyle=_dash(at + 1), linewidth=1.2)
    return _finished(figure, title, names=list(samples))


def bar_chart(
    bars: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    spread: Mapping[str, Mapping[str, float]] | None = None,
) -> Chart:
    """Groups of bars side by side.

    Args:
        bars: for each series its value by group; a group that it lacks gets no bar.
        spread: error bars of that half length, where given.
    """
    figure, axes = _axes(x_label, y_label)
    groups = list(dict.fromkeys(group for values in bars.values() for group in values))
    width = 0.8 / len(bars)
    for at, (name, values) in enumerate(bars.items()):
        shown = [group for group in groups if group in values]
        x = [groups.index(group) + (at - (len(bars) - 1) / 2) * width for group in shown]
        errors = [(spread or {}).get(name, {}).get(group, 0.0) for group in shown]
        axes.bar(
            x,
            [values[group] for group in shown],
            width,
            label=name,
            color=_colour(at),
            yerr=errors if any(errors) else None,
            ecolor=_INK,
        )
    every = -(-len(groups) // _MAX_GROUP_LABELS)
    axes.set_xticks(range(0, len(groups), every), groups[::every])
    axes.grid(visible=False, axis="x")
    return _finished(figure, title, names=list(bars))


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.tick_params(length=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def _draw_line(axes: Axes, series: Series, at: int, *, marked: bool) -> None:
    axes.plot(
        series.x,
        series.y,
        label=series.name,
        color=_colour(at),
        linestyle=_dash(at),
        linewidth=1.8,
        marker=_MARKERS[at % len(_MARKERS)] if marked else "",
        markersize=4,
    )


def _draw_labels(axes: Axes, series: Series) -> None:
    every = -(-len(series.labels) // _MAX_POINT_LABELS)
    points = list(zip(series.x, series.y, series.labels, strict=False))
    for x, y, label in reversed(points[:: -every or 1]):  # the last one always
        axes.annotate(label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=_INK)


def _finished(figure: Figure, title: str, *, names: Sequence[str]) -> Chart:
    if len(names) > 1:
        widest = max(map(len, names)) + _LEGEND_SAMPLE_CHARACTERS
        columns = min(len(names), max(1, _LEGEND_LINE_CHARACTERS // widest))
        style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": _INK, "handlelength": 2.4}
        figure.legend(loc="outside upper left", ncols=columns, **style)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out again for each file, it would move by fractions of a point
    return Chart(figure, title)


def _colour(at: int) -> str:
    return SERIES_COLOURS[at % len(SERIES_COLOURS)]


def _dash(at: int) -> str:
    return _DASHES[at % len(_DASHES)]


def _themed(svg: str, title: str) -> str:
    """Variables for colours, the page's font, a spoken title, no ids but those that something refers to."""
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _with_dark_mode(svg: str) -> str:
    dark = "; ".join(f"{variable}: {colour}" for variable, colour in _DARK.items())
    style = f"<style>@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    end = svg.index(">", svg.index("<svg")) + 1
    return svg[:end] + style + svg[end:]
