"""How much worse than its base a version may be before the gate refuses it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GateLimits:
    """How much worse than its base a version may be.

    Args:
        score_percent: loss of the second scorer's CLIPScore, in percent of the base's.
        recall_points: loss of R@1, R@5, R@10 by the second scorer, in points.
        distinct_points: loss of the share of distinct captions, in points.
        repetition_points: rise of the share of repeated word pairs, in points.
        length_percent: change of the mean length, either way, in percent of the base's.
        cider_percent: loss of CIDEr-D on held-out labelled photos, in percent of the base's.
    """

    score_percent: float = 1.0
    recall_points: float = 3.0
    distinct_points: float = 5.0
    repetition_points: float = 2.0
    length_percent: float = 20.0
    cider_percent: float = 5.0
