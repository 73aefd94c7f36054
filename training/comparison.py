"""Two checkpoints on the same photos: what differs, and whether chance alone could explain it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from training.figures import FIGURES, OWN_SCORER_FIGURES
from training.report import Report, write_json

RESAMPLES = 2000
"""The ends of a 95 % interval then rest on 50 resamples each."""
COVERAGE = 95.0


@dataclass(frozen=True)
class Difference:
    """The first checkpoint's figure minus the second's.

    Args:
        low: start of the 95 % interval; None for figures of the whole set, which have none.
        high: its end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """A report beside another one on the same photos.

    Args:
        differences: by figure, of those that both have and that one and the same scorer gave.
    """

    report: Report
    against: Report
    differences: Mapping[str, Difference]

    def write(self, path: Path) -> None:
        """The report's JSON with `against` (a report) and `differences` added."""
        write_json(
            path,
            asdict(self.report)
            | {
                "against": asdict(self.against),
                "differences": {name: asdict(difference) for name, difference in self.differences.items()},
            },
        )


def compare(report: Report, against: Report, *, seed: int = 0) -> Comparison:
    """The differences of two reports, with intervals by the paired bootstrap over photos.

    Raises:
        ValueError: the reports are of different photos.
    """
    if [image.image for image in report.captions] != [image.image for image in against.captions]:
        raise ValueError(f"the reports of {report.version} and {against.version} are of different photos")
    names = [name for name in FIGURES if name in report.figures and name in against.figures]
    if report.scorer != against.scorer:
        names = [name for name in names if name not in OWN_SCORER_FIGURES]
    paired = [name for name in names if name in report.scored]
    changes = np.stack([report.scores(name) - against.scores(name) for name in paired], axis=1)
    low, high = bootstrap_interval(changes, seed=seed)
    intervals = {name: (float(low[at]), float(high[at])) for at, name in enumerate(paired)}
    return Comparison(
        report,
        against,
        {
            name: Difference(report.figures[name] - against.figures[name], *intervals.get(name, ()))
            for name in names
        },
    )


def bootstrap_interval(
    changes: Float[np.ndarray, "images figures"], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Float[np.ndarray, "figures"], Float[np.ndarray, "figures"]]:
    """Ends of the 95 % percentile interval of each column's mean, over resampled rows.

    The rows are photos, so both checkpoints are always compared on the same ones (paired bootstrap, Koehn
    2004, https://aclanthology.org/W04-3250). What was computed from the whole set, CIDEr-D's document
    frequencies and the images that r@k searches, stays as it was.
    """
    rng = np.random.default_rng(seed)
    rows = len(changes)
    means = np.stack([changes[rng.integers(rows, size=rows)].mean(axis=0) for _ in range(resamples)])
    tail = (100.0 - COVERAGE) / 2
    low, high = np.percentile(means, [tail, 100.0 - tail], axis=0)
    return low, high
