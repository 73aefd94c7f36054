"""A run's log read back."""

import json
from pathlib import Path

import pytest

from training.history import history_of
from training.journal import Journal


def test_what_a_journal_wrote_is_read_back(tmp_path: Path) -> None:
    with Journal(tmp_path, "run", first=0, total=4) as journal:
        for step in range(1, 5):
            journal.step(step, {"loss": 4.0 / step})
            journal.samples(step, ["a caption"])
        journal.evaluation(2, {"cider_d": 40.0, "r@1": 10.0})
        journal.evaluation(4, {"cider_d": 42.0})
    history = history_of(tmp_path / "model")
    assert history is not None
    assert [step for step, _ in history.losses] == [1, 2, 3, 4]
    assert [loss for _, loss in history.losses] == pytest.approx([4.0, 2.0, 4 / 3, 1.0], rel=1e-5)
    assert history.course("cider_d") == ([2, 4], [40.0, 42.0])
    assert history.course("r@1") == ([2], [10.0])
    assert history.course("bleu_4") == ([], [])


def test_losses_are_averaged_over_stretches(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": float(step)}) for step in range(1, 9)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    history = history_of(tmp_path / "model")
    assert history is not None
    assert history.smoothed_losses(4) == ([1.5, 3.5, 5.5, 7.5], [1.5, 3.5, 5.5, 7.5])
    assert history.smoothed_losses(100)[0] == list(range(1, 9))


def test_half_a_line_ends_the_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    history = history_of(tmp_path / "model")
    assert history is not None
    assert history.losses == ((1, 2.0),)
    assert history.smoothed_losses(10) == ([1.0], [2.0])


def test_checkpoint_outside_a_run_has_no_history(tmp_path: Path) -> None:
    assert history_of(tmp_path / "model") is None
