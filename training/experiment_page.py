"""The page of an experiment: tables, a curve, captions side by side."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.charts import Series, path_chart
from training.comparison import compare
from training.disk import replace_text
from training.figures import FIGURES
from training.history import history_of
from training.report import Report

PAGE, CURVE = "experiment.md", "experiment.png"
SHOWN = (
    "cider_d",
    "bleu_4",
    "rouge_l",
    "clip_score",
    "ref_clip_score",
    "r@1",
    "r@5",
    "r@10",
    "second_clip_score",
    "second_ref_clip_score",
    "second_r@1",
    "second_r@5",
    "second_r@10",
    "length_mean",
    "repetition",
    "distinct_captions",
    "vocabulary",
)
SHOWN_OF_VARIANTS = (
    "cider_d",
    "bleu_4",
    "clip_score",
    "r@1",
    "second_clip_score",
    "second_r@1",
    "length_mean",
    "repetition",
    "distinct_captions",
)
CURVE_X, CURVE_Y = "second_r@1", "cider_d"


class Plan(Protocol):
    """What the page takes from the experiment's configuration."""

    @property
    def compared(self) -> tuple[str, ...]: ...
    @property
    def variants_of(self) -> str: ...
    @property
    def curves(self) -> tuple[str, ...]: ...
    @property
    def examples(self) -> int: ...
    @property
    def about(self) -> str: ...
    @property
    def findings(self) -> str: ...


@dataclass(frozen=True)
class Arm:
    """A name and what it stands for."""

    name: str
    about: str


@dataclass(frozen=True)
class Run:
    """One training of an arm, measured."""

    arm: str
    name: str
    report: Report
    checkpoint: Path


def write_experiment(out: Path, plan: Plan, arms: Sequence[Arm], runs: Sequence[Run]) -> Path:
    """Writes the page and its picture; returns the page."""
    variants = [arm for arm in arms if arm.name not in plan.compared]
    first = runs[0].report
    has_curve = _write_curve(out / CURVE, plan.curves, runs)
    axes = f"{FIGURES[CURVE_Y].title} against {FIGURES[CURVE_X].full_title}"
    parts = [
        "# The experiment",
        plan.about.strip(),
        f"{first.images} validation photos ({first.data}), never trained on, {_decoding(first)}. "
        f"Trained against: {first.scorer}. Not trained against: {first.second_scorer}.",
        "\n".join(f"- **{arm.name}**: {arm.about}" for arm in arms if arm.name in plan.compared),
        _compared_table(plan.compared, runs),
        _variants_table(plan.variants_of, variants, runs),
        f"![{axes} over the steps of stage 2]({CURVE})" if has_curve else "",
        plan.findings.strip(),
        _examples(plan, runs),
    ]
    replace_text(out / PAGE, "\n\n".join(part for part in parts if part) + "\n")
    return out / PAGE


def _compared_table(compared: Sequence[str], runs: Sequence[Run]) -> str:
    """Mean and standard deviation over the seeds of each arm."""
    reports = {name: [run.report for run in runs if run.arm == name] for name in compared}
    counts = ", ".join(f"{name}: {len(each)}" for name, each in reports.items())
    lines = [
        f"Mean ± standard deviation over seeds ({counts}):",
        "",
        "| | " + " | ".join(compared) + " |",
        "|---" * (len(compared) + 1) + "|",
    ]
    for name in SHOWN:
        cells = [_mean_and_spread(name, each) for each in reports.values()]
        lines.append(f"| {FIGURES[name].full_title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _variants_table(base: str, variants: Sequence[Arm], runs: Sequence[Run]) -> str:
    """The first seed of every variant beside the base's; bold where chance is an unlikely explanation."""
    of_arm = _first_runs(runs)
    titles = [FIGURES[name].full_title for name in SHOWN_OF_VARIANTS]
    lines = [
        f"{base} varied, one seed each. Bold: the 95 % interval of the difference to {base} (bootstrap over "
        "photos) leaves out zero. Step: the one whose weights were kept.",
        "",
        "| | step | " + " | ".join(titles) + " |",
        "|---" * (len(titles) + 2) + "|",
    ]
    for arm in [Arm(base, "as above"), *variants]:
        report = of_arm[arm.name].report
        clear = {
            name
            for name, difference in compare(report, of_arm[base].report).differences.items()
            if difference.is_clear
        }
        cells = [
            f"**{FIGURES[name].shown(report.figures[name])}**"
            if name in clear
            else FIGURES[name].shown(report.figures[name])
            for name in SHOWN_OF_VARIANTS
        ]
        lines.append(f"| {arm.name}: {arm.about} | {report.step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _write_curve(path: Path, arms: Sequence[str], runs: Sequence[Run]) -> bool:
    """Draws the course of the first seed of each arm; False if none was evaluated while it trained."""
    of_arm = _first_runs(runs)
    series = []
    for name in arms:
        history = history_of(of_arm[name].checkpoint)
        steps, x = history.course(CURVE_X) if history else ([], [])
        if history and steps:
            ends = ["" for _ in steps]
            ends[0], ends[-1] = str(steps[0]), str(steps[-1])
            series.append(Series(name, x, history.course(CURVE_Y)[1], labels=ends))
    if series:
        path_chart(
            series,
            title="Stage 2, step by step",
            x_label=f"{FIGURES[CURVE_X].full_title}, %",
            y_label=FIGURES[CURVE_Y].full_title,
        ).save(path)
    return bool(series)


def _examples(plan: Plan, runs: Sequence[Run]) -> str:
    """What the compared arms write about photos spread evenly over the validation set."""
    of_arm = _first_runs(runs)
    shown = [of_arm[name].report for name in plan.compared]
    count = min(plan.examples, len(shown[0].captions))
    if count == 0:
        return ""
    rows = [at * len(shown[0].captions) // count for at in range(count)]
    lines = [
        f"## {count} photos",
        "",
        "Spread evenly over the validation photos, not chosen; first seed of each arm.",
        "",
        "| photo | " + " | ".join(plan.compared) + " |",
        "|---" * (len(plan.compared) + 1) + "|",
    ]
    for row in rows:
        cells = [report.captions[row].caption for report in shown]
        lines.append(f"| {shown[0].captions[row].image} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _first_runs(runs: Sequence[Run]) -> Mapping[str, Run]:
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.arm, run)
    return first


def _mean_and_spread(name: str, reports: Sequence[Report]) -> str:
    values = [report.figures[name] for report in reports]
    shown = FIGURES[name].shown(statistics.mean(values))
    return f"{shown} ± {FIGURES[name].shown(statistics.stdev(values))}" if len(values) > 1 else shown


def _decoding(report: Report) -> str:
    beams = report.decoding["num_beams"]
    return f"beam of {beams}" if report.decoding["strategy"] == "beam" else "greedy decoding"
