"""Differences of two reports and their intervals."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.reports import made_report
from training.comparison import Difference, bootstrap_interval, compare
from training.tables import figure_rows

CAPTIONS = [f"caption {row}" for row in range(40)]


def test_interval_of_a_large_set_is_that_of_the_normal_distribution() -> None:
    changes = np.random.default_rng(3).normal(0.5, 2.0, size=(2000, 1))
    low, high = bootstrap_interval(changes, seed=0)
    half = 1.96 * changes.std() / np.sqrt(len(changes))
    assert low[0] == pytest.approx(changes.mean() - half, abs=0.1 * half)
    assert high[0] == pytest.approx(changes.mean() + half, abs=0.1 * half)


def test_interval_is_of_the_paired_changes() -> None:
    """Photos differ much, every one of them gains the same: nothing is left to chance."""
    low, high = bootstrap_interval(np.full((30, 1), 0.25), seed=0)
    assert low[0] == high[0] == 0.25


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.normal(1.0, 1.0, size=(60, 1)), seed=seed, resamples=300)
        covered += bool(low[0] <= 1.0 <= high[0])
    assert 180 <= covered <= 199  # of 200; 190 expected


def test_differences_are_those_of_the_figures() -> None:
    report, against = made_report(CAPTIONS, step=90), made_report(CAPTIONS, step=10, seed=1)
    comparison = compare(report, against)
    for name, difference in comparison.differences.items():
        assert difference.value == report.figures[name] - against.figures[name]
    assert comparison.differences["bleu_4"] == Difference(80.0)
    cider = comparison.differences["cider_d"]
    assert cider.low is not None
    assert cider.high is not None
    assert cider.low < cider.value < cider.high


def test_intervals_are_the_same_every_time() -> None:
    report, against = made_report(CAPTIONS), made_report(CAPTIONS, seed=1)
    assert compare(report, against) == compare(report, against)


def test_reports_of_different_photos_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different photos"):
        compare(made_report(CAPTIONS), made_report(CAPTIONS[:-1], version="ffff"))


def test_own_scorers_that_differ_leave_their_figures_out() -> None:
    comparison = compare(made_report(CAPTIONS), made_report(CAPTIONS, scorer="other (2)"))
    assert set(comparison.differences) == {"cider_d", "rouge_l", "bleu_4", "length_mean", "repetition"}


def test_verdict_needs_an_interval_without_zero_and_a_better_side() -> None:
    report = made_report(CAPTIONS)
    differences = {
        "cider_d": Difference(2.0, 0.5, 3.5),
        "r@1": Difference(2.0, -0.5, 4.5),
        "repetition": Difference(2.0, 0.5, 3.5),
        "length_mean": Difference(2.0, 0.5, 3.5),
        "bleu_4": Difference(2.0),
    }
    verdicts = {row.figure.name: row.verdict for row in figure_rows([report, report], differences)}
    assert verdicts["cider_d"] == "better"
    assert verdicts["repetition"] == "worse"
    assert verdicts["r@1"] == verdicts["length_mean"] == verdicts["bleu_4"] == "unclear"


def test_json_keeps_the_report_on_top(tmp_path: Path) -> None:
    report, against = made_report(CAPTIONS), made_report(CAPTIONS, seed=1)
    compare(report, against).write(tmp_path / "both.json")
    report.write(tmp_path / "one.json")
    both = json.loads((tmp_path / "both.json").read_text())
    assert both.pop("against")["figures"] == dict(against.figures)
    assert set(both.pop("differences")["cider_d"]) == {"value", "low", "high"}
    assert both == json.loads((tmp_path / "one.json").read_text())
