"""Which photos of an evaluation to look at: best, worst, most changed, and some by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.comparison import Comparison
from training.figures import FIGURES, SECOND
from training.report import Report


@dataclass(frozen=True)
class CaseGroup:
    """Photos chosen for one reason.

    Args:
        rows: places in the report.
    """

    title: str
    about: str
    rows: tuple[int, ...]


def choose_cases(
    report: Report, comparison: Comparison | None, *, limit: int, seed: int = 0
) -> list[CaseGroup]:
    """Groups of photos, no photo twice, about equal in size, `limit` in all; the rest is drawn by chance."""
    orders = _orders(report, comparison)
    share = limit // (len(orders) + 1)
    taken: set[int] = set()
    groups = []
    for title, about, order in orders:
        groups.append(CaseGroup(title, about, _take(order, share, taken)))
    shuffled = np.random.default_rng(seed).permutation(report.images)
    rest = _take(shuffled.tolist(), limit - len(taken), taken)
    groups.append(CaseGroup("By chance", "drawn from the photos that are not above, to show the usual", rest))
    return [group for group in groups if group.rows]


def _orders(report: Report, comparison: Comparison | None) -> list[tuple[str, str, Sequence[int]]]:
    orders: list[tuple[str, str, Sequence[int]]] = []
    if comparison is not None:
        judge = _judge(comparison)
        change = report.scores(judge) - comparison.against.scores(judge)
        rows = np.argsort(-change, kind="stable").tolist()
        about = f"in {FIGURES[judge].full_title}, from the second checkpoint to the first"
        orders += [("Gained most", about, rows), ("Lost most", about, rows[::-1])]
    for figure in ("clip_similarity", "cider_d"):
        if figure in report.scored:
            rows = np.argsort(-report.scores(figure), kind="stable").tolist()
            orders += [
                (f"Highest {FIGURES[figure].title}", "", rows),
                (f"Lowest {FIGURES[figure].title}", "", rows[::-1]),
            ]
    return orders


def _judge(comparison: Comparison) -> str:
    """The figure that ranks changes: of the second scorer if there is one, else of what can be compared."""
    candidates = (SECOND + "clip_similarity", "clip_similarity", "cider_d", "length_mean")
    return next(name for name in candidates if name in comparison.differences)


def _take(order: Sequence[int], count: int, taken: set[int]) -> tuple[int, ...]:
    rows = [row for row in order if row not in taken][:count]
    taken.update(rows)
    return tuple(rows)
