"""The gate: what it refuses, with the figures that decided."""

from collections.abc import Mapping
from typing import Any

import pytest

from service.finetuning.gate import judge
from service.finetuning.gate_limits import GateLimits

BEFORE = {
    "clip_score": 1.4,
    "second_clip_score": 1.2,
    "second_r@1": 10.0,
    "second_r@5": 30.0,
    "second_r@10": 44.0,
    "distinct_captions": 80.0,
    "repetition": 1.0,
    "length_mean": 10.0,
    "vocabulary": 200.0,
}


def verdict(
    after: Mapping[str, float] | None = None, *, labelled: tuple[float, float] | None = None
) -> dict[str, Any]:
    pair = ({"cider_d": labelled[0]}, {"cider_d": labelled[1]}) if labelled else None
    return judge(BEFORE, BEFORE | dict(after or {}), labelled=pair, limits=GateLimits()).to_dict()


def test_version_like_its_base_passes() -> None:
    answer = verdict(labelled=(44.0, 44.0))
    assert answer["passed"]
    assert len(answer["checks"]) == 9
    assert all(check["passed"] for check in answer["checks"])


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"second_clip_score": 1.18}, "CLIPScore by the second scorer 1.180 (before 1.200, at least 1.188)"),
        ({"second_r@10": 40.0}, "R@10 by the second scorer 40.0 (before 44.0, at least 41.0)"),
        ({"distinct_captions": 70.0}, "Distinct captions 70.0 (before 80.0, at least 75.0)"),
        ({"repetition": 65.3}, "Repetition 65.30 (before 1.00, at most 3.00)"),
        ({"length_mean": 7.9}, "Length 7.90 (before 10.00, at least 8.00)"),
        ({"length_mean": 24.3}, "Length 24.30 (before 10.00, at most 12.00)"),
        ({"second_clip_score": float("nan")}, "CLIPScore by the second scorer nan"),
    ],
)
def test_worse_guard_figure_is_refused_and_named(after: dict[str, float], said: str) -> None:
    answer = verdict(after)
    assert not answer["passed"]
    assert answer["reason"].startswith("refused: ")
    assert said in answer["reason"]


def test_lost_agreement_with_references_is_refused() -> None:
    assert not verdict(labelled=(44.0, 39.3))["passed"]
    assert verdict(labelled=(44.0, 43.0))["passed"]


def test_own_scorer_decides_nothing() -> None:
    assert verdict({"clip_score": 0.1})["passed"]
