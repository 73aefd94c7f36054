"""The curve of a training as its log grows."""

import json
from pathlib import Path

from service.finetuning.log import MOST_POINTS, TrainingLog


def line(**record: object) -> str:
    return json.dumps(record) + "\n"


def test_points_come_as_they_are_written(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, steps=10)
    assert log.read() == []
    file = tmp_path / "log.jsonl"
    file.write_text(
        line(step=0, evaluation={"clip_similarity": 0.5}) + line(step=1, loss=2.0, similarity=-0.4)
    )
    assert log.read() == [
        {"step": 0, "clip_similarity": 0.5},
        {"step": 1, "loss": 2.0, "sampled_similarity": 0.4},
    ]
    with file.open("a") as end:
        end.write(line(step=1, evaluation={"second_clip_similarity": 0.3}) + '{"step": 2, "lo')
    assert log.read() == [{"step": 1, "loss": 2.0, "sampled_similarity": 0.4, "second_similarity": 0.3}]
    with file.open("a") as end:
        end.write('ss": 1.5}\n' + line(step=2, samples=["a dog"]))
    assert log.read() == [{"step": 2, "loss": 1.5}]
    assert (log.step, [point["step"] for point in log.points]) == (2, [0, 1, 2])


def test_log_that_a_resumed_run_wrote_anew_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(line(step=step, loss=1.0) for step in range(1, 6)))
    log = TrainingLog(tmp_path, steps=10)
    log.read()
    scratch = tmp_path / "new"
    scratch.write_text("".join(line(step=step, loss=2.0) for step in range(1, 9)))
    scratch.replace(file)
    assert [point["loss"] for point in log.read()] == [2.0] * 8
    assert len(log.points) == 8


def test_long_run_keeps_a_bounded_curve(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, steps=5000)
    records = [line(step=step, loss=1.0) for step in range(1, 5001)]
    (tmp_path / "log.jsonl").write_text("".join(records) + line(step=4999, evaluation={"r@1": 3.0}))
    log.read()
    assert len(log.points) <= MOST_POINTS + 2
    assert {"step": 4999, "recall_at_1": 3.0} in log.points
    assert log.step == 5000
