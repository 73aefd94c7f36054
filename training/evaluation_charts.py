"""The charts of an evaluation's page: distributions over photos, and the course of the training run."""

from collections.abc import Sequence

from training.charts import Chart, Series, bar_chart, histogram, line_chart, path_chart
from training.figures import FIGURES, SECOND
from training.history import History
from training.report import Report
from training.tables import labels

DISTRIBUTIONS = ("clip_similarity", SECOND + "clip_similarity", "cider_d")
LOSS_POINTS = 60


def distribution_charts(reports: Sequence[Report]) -> list[Chart]:
    """How similarity, CIDEr-D and length spread over the photos, checkpoints laid over one another."""
    names = labels(reports)
    charts = [
        histogram(
            {name: report.scores(figure).tolist() for name, report in zip(names, reports, strict=True)},
            title=FIGURES[figure].full_title,
            x_label=FIGURES[figure].title,
            y_label="photos",
        )
        for figure in DISTRIBUTIONS
        if figure in reports[0].scored
    ]
    lengths = {name: _lengths(report) for name, report in zip(names, reports, strict=True)}
    return [*charts, bar_chart(lengths, title="Length of the captions", x_label="words", y_label="captions")]


def history_charts(history: History) -> list[Chart]:
    """Loss, validation figures, and CIDEr-D against R@1 over a run's steps, as far as it logged them."""
    charts = []
    steps, losses = history.smoothed_losses(LOSS_POINTS)
    if len(steps) > 1:
        charts.append(
            line_chart([Series("loss", steps, losses)], title="Training loss", x_label="step", y_label="loss")
        )
    percentages = _courses(history, ("cider_d", "r@1", SECOND + "r@1"))
    if percentages:
        charts.append(
            line_chart(
                percentages, title="Validation while training", x_label="step", y_label="CIDEr-D; R@1 in %"
            )
        )
    similarities = _courses(history, ("clip_similarity", SECOND + "clip_similarity"))
    if similarities:
        charts.append(
            line_chart(similarities, title="CLIP similarity while training", x_label="step", y_label="cosine")
        )
    return charts + _paths(history)


def _courses(history: History, figures: Sequence[str]) -> list[Series]:
    courses = [Series(FIGURES[figure].full_title, *history.course(figure)) for figure in figures]
    return [course for course in courses if len(course.x) > 1]


def _paths(history: History) -> list[Chart]:
    """Retrieval bought with language shows as a path that turns left."""
    paths = []
    for recall in ("r@1", SECOND + "r@1"):
        points = [
            (step, figures["cider_d"], figures[recall])
            for step, figures in history.evaluations
            if "cider_d" in figures and recall in figures
        ]
        if len(points) > 1:
            steps, agreement, found = zip(*points, strict=True)
            steps_shown = [str(step) for step in steps]
            paths.append(Series(FIGURES[recall].full_title, agreement, found, labels=steps_shown))
    if not paths:
        return []
    title = "CIDEr-D against R@1 over the steps"
    return [path_chart(paths, title=title, x_label="CIDEr-D", y_label="R@1 (%)")]


def _lengths(report: Report) -> dict[str, float]:
    lengths = report.scores("length_mean").astype(int)
    return {
        str(length): float((lengths == length).sum()) for length in range(lengths.min(), lengths.max() + 1)
    }
