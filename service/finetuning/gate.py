"""Whether a new version may take over: its figures on held-out photos beside those of its base."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.finetuning.gate_limits import GateLimits
from training.figures import FIGURES


@dataclass(frozen=True)
class Check:
    """One guard figure.

    Args:
        limit: the worst value that still passes.
    """

    name: str
    before: float
    after: float
    limit: float
    bound: Literal["at least", "at most"]

    @property
    def passed(self) -> bool:
        if not math.isfinite(self.after):
            return False
        return self.after >= self.limit if self.bound == "at least" else self.after <= self.limit

    def __str__(self) -> str:
        figure = FIGURES[self.name]
        before, after, limit = map(figure.shown, (self.before, self.after, self.limit))
        return f"{figure.full_title} {after} (before {before}, {self.bound} {limit})"


@dataclass(frozen=True)
class Verdict:
    """What the gate says."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """In one line, with the figures that decided."""
        failed = [str(check) for check in self.checks if not check.passed]
        if failed:
            return "refused: " + "; ".join(failed)
        return f"passed: {len(self.checks)} guard figures within their limits"

    def to_dict(self) -> dict[str, Any]:
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return {"passed": self.passed, "checks": checks, "reason": self.reason}


def judge(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    labelled: tuple[Mapping[str, float], Mapping[str, float]] | None,
    limits: GateLimits,
) -> Verdict:
    """The verdict on figures named as in training/figures.py.

    Args:
        labelled: the same two on held-out labelled photos, where there are any.
    """
    judged = {name: (before[name], after[name]) for name in after if name in before}
    if labelled is not None:
        judged["cider_d"] = (labelled[0]["cider_d"], labelled[1]["cider_d"])
    checks = [check for name, (was, now) in judged.items() for check in _checks(name, was, now, limits)]
    order = list(FIGURES)
    return Verdict(tuple(sorted(checks, key=lambda check: order.index(check.name))))


def _checks(name: str, before: float, after: float, limits: GateLimits) -> list[Check]:
    def at_least(limit: float) -> Check:
        return Check(name, before, after, limit, "at least")

    def at_most(limit: float) -> Check:
        return Check(name, before, after, limit, "at most")

    match name:
        case "second_clip_score":
            return [at_least(before * (1 - limits.score_percent / 100))]
        case "second_r@1" | "second_r@5" | "second_r@10":
            return [at_least(before - limits.recall_points)]
        case "distinct_captions":
            return [at_least(before - limits.distinct_points)]
        case "repetition":
            return [at_most(before + limits.repetition_points)]
        case "length_mean":
            share = limits.length_percent / 100
            return [at_least(before * (1 - share)), at_most(before * (1 + share))]
        case "cider_d":
            return [at_least(before * (1 - limits.cider_percent / 100))]
    return []
