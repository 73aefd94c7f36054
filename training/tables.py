"""The figures of one or two checkpoints as rows, for the terminal and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.markup import escape
from rich.table import Table

from training.comparison import Difference
from training.figures import FIGURES, Figure
from training.report import Report

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Row:
    """One figure: its value under each checkpoint, and their difference.

    Args:
        interval: 95 % interval of the difference; empty without one.
        verdict: on the first checkpoint; unclear where the interval holds zero or no side is better.
    """

    figure: Figure
    values: tuple[str, ...]
    difference: str = ""
    interval: str = ""
    verdict: Verdict = "unclear"


def figure_rows(reports: Sequence[Report], differences: Mapping[str, Difference]) -> list[Row]:
    """A row for each figure that every report has, in the order of the catalogue."""
    return [
        _row(figure, [report.figures[name] for report in reports], differences.get(name))
        for name, figure in FIGURES.items()
        if all(name in report.figures for report in reports)
    ]


def labels(reports: Sequence[Report]) -> tuple[str, ...]:
    """A short name for each report that no other has."""
    stages = tuple(f"{report.stage}, step {report.step}" for report in reports)
    if len(set(stages)) == len(reports):
        return stages
    return tuple(f"{stage} ({report.version})" for stage, report in zip(stages, reports, strict=True))


def notes(reports: Sequence[Report]) -> list[str]:
    """What a reader of the figures has to know about them."""
    first, lines = reports[0], []
    if not first.has_references:
        lines.append("No captions lie beside these photos: the figures against references are left out.")
    if len({report.scorer for report in reports}) > 1:
        lines.append(
            "The checkpoints have different CLIPs of their own: their own scorers' figures don't compare, "
            "those of the second scorer do."
        )
    lines += [f"Left out: {count} x {kind}." for kind, count in first.skipped.items()]
    return lines


def provenance(reports: Sequence[Report]) -> list[str]:
    """What was measured, by whom, on what: a line each."""
    first = reports[0]
    lines = [f"{first.images} photos of {first.data}"]
    for label, report in zip(labels(reports), reports, strict=True):
        lines.append(f"{label}: {report.model} {report.version}, scorer {report.scorer}")
    return [*lines, f"second scorer: {first.second_scorer}"]


def terminal_table(reports: Sequence[Report], differences: Mapping[str, Difference]) -> Table:
    """The figures by group; 80 columns hold two checkpoints."""
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    for label in labels(reports):
        table.add_column(escape(label), justify="right")
    if differences:
        table.add_column("difference", justify="right", no_wrap=True)
        table.add_column("95 % interval", justify="right", no_wrap=True)
    rows = figure_rows(reports, differences)
    for group in dict.fromkeys(row.figure.group for row in rows):
        table.add_row(f"[bold]{group}[/bold]")
        for row in rows:
            if row.figure.group == group:
                table.add_row(row.figure.title, *row.values, *_difference_cells(row, differences))
    return table


def _difference_cells(row: Row, differences: Mapping[str, Difference]) -> list[str]:
    style = {"better": "green", "worse": "red", "unclear": "default"}[row.verdict]
    return [f"[{style}]{row.difference}[/{style}]", row.interval] if differences else []


def _row(figure: Figure, values: Sequence[float], difference: Difference | None) -> Row:
    shown = tuple(figure.shown(value) for value in values)
    if difference is None:
        return Row(figure, shown)
    return Row(
        figure,
        shown,
        figure.shown_change(difference.value),
        _interval(figure, difference),
        _verdict(figure, difference),
    )


def _interval(figure: Figure, difference: Difference) -> str:
    if difference.low is None or difference.high is None:
        return ""
    return f"{figure.shown_change(difference.low)} to {figure.shown_change(difference.high)}"


def _verdict(figure: Figure, difference: Difference) -> Verdict:
    if figure.better is None or not difference.is_clear:
        return "unclear"
    return "better" if (difference.value > 0) == (figure.better == "higher") else "worse"
