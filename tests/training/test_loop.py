"""The loop's promises: exact resumption, whole states, a stop on the first loss that is not a number."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.toy_stage import LOOP, OPTIM, ToyStage, run
from training import state
from training.journal import CURVES, LOG
from training.loop import RESULT, STATES, TrainingDivergedError, train
from training.optim import WeightAverage
from training.stage import Losses
from training.state import ResumeError
from training.toml_reader import TrainingConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_killed_run_resumes_to_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, _ = run(tmp_path / "unbroken", resume=False)
    program = [sys.executable, "-m", "tests.training.toy_stage", str(tmp_path / "killed")]
    with subprocess.Popen(program, cwd=ROOT) as process:
        _wait_for_step(tmp_path / "killed", 7, process)
        process.send_signal(signal.SIGKILL)
    assert 0 < _last_step(tmp_path / "killed") < 20
    resumed, result = run(tmp_path / "killed", resume=True)
    assert result.step == 20
    torch.testing.assert_close(resumed.weights(), unbroken.weights(), rtol=0, atol=1e-7)
    assert _log(tmp_path / "killed") == _log(tmp_path / "unbroken")
    assert _curve(tmp_path / "killed", "train/loss") == _curve(tmp_path / "unbroken", "train/loss")
    assert [step for step, _ in _curve(tmp_path / "killed", "validation/fit")] == [4, 8, 12, 16, 20]


def test_run_stopped_by_ctrl_c_saves_and_resumes_exactly(tmp_path: Path) -> None:
    unbroken, _ = run(tmp_path / "unbroken", resume=False)
    stage = ToyStage()
    original = stage.losses

    def interrupted(*args: object, **kwargs: object) -> object:
        if stage.calls == 17:
            raise KeyboardInterrupt
        return original(*args, **kwargs)  # type: ignore[arg-type]

    stage.losses = interrupted  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        train(stage, optim=OPTIM, loop=LOOP, out=tmp_path / "cut", resume=False)
    assert state.states(tmp_path / "cut" / STATES)[-1].name == "step-00000008"
    resumed, _ = run(tmp_path / "cut", resume=True)
    torch.testing.assert_close(resumed.weights(), unbroken.weights(), rtol=0, atol=1e-7)


def test_training_lowers_the_loss_and_logs_every_step_once(tmp_path: Path) -> None:
    _, result = run(tmp_path, resume=False)
    steps = [line for line in _log(tmp_path) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert (result.folder / "step").read_text() == "20"
    assert result.figures["fit"] == pytest.approx(
        [line for line in _log(tmp_path) if "evaluation" in line][-1]["evaluation"]["fit"], rel=1e-4
    )


def test_interrupt_in_the_middle_of_an_update_or_evaluation_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, _ = run(tmp_path / "unbroken", resume=False)
    places: list[tuple[type, str]] = [(WeightAverage, "update"), (ToyStage, "evaluate")]
    for owner, name in places:
        out = tmp_path / name
        monkeypatch.setattr(owner, name, _interrupting_second_call(getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            run(out, resume=False)
        monkeypatch.undo()
        resumed, _ = run(out, resume=True)
        torch.testing.assert_close(resumed.weights(), unbroken.weights(), rtol=0, atol=1e-7)
        assert _log(out) == _log(tmp_path / "unbroken")


def test_finished_run_resumed_again_keeps_its_result_and_its_log(tmp_path: Path) -> None:
    first, _ = run(tmp_path, resume=False)
    log, points = (tmp_path / LOG).read_text(), _curve(tmp_path, "validation/fit")
    again, result = run(tmp_path, resume=True)
    assert again.calls == 0
    assert result.step == 20
    assert torch.equal(first.weights(), again.weights())
    assert (tmp_path / LOG).read_text() == log
    assert _curve(tmp_path, "validation/fit") == points


def test_second_start_without_resume_is_refused(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    with pytest.raises(ResumeError, match="already holds a run; add --resume"):
        run(tmp_path, resume=False)


def test_state_of_another_architecture_is_refused(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    stage = ToyStage()
    stage.module[0] = torch.nn.Linear(3, 16, bias=False)
    stage.module.append(torch.nn.Linear(1, 1))
    with pytest.raises(ResumeError, match=r"2\.weight|3\.weight"):
        train(stage, optim=OPTIM, loop=LOOP, out=tmp_path, resume=True)


def test_nan_loss_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    stage = ToyStage()
    stage.poisoned_at = 15
    with pytest.raises(
        TrainingDivergedError, match=r"loss is nan at step 7; the last good state is .*step-00000006"
    ):
        train(stage, optim=OPTIM, loop=LOOP, out=tmp_path, resume=False)
    resumed, _ = run(tmp_path, resume=True)
    unbroken, _ = run(tmp_path / "unbroken", resume=False)
    torch.testing.assert_close(resumed.weights(), unbroken.weights(), rtol=0, atol=1e-7)


def test_weights_that_are_no_longer_numbers_are_not_saved(tmp_path: Path) -> None:
    stage = ToyStage()
    original = stage.losses

    def poisoning(*args: Any, **kwargs: Any) -> Losses:
        losses = original(*args, **kwargs)
        if stage.calls == 18:
            with torch.no_grad():
                next(stage.module.parameters()).fill_(torch.inf)
        return losses

    stage.losses = poisoning  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match=r"largest weight is inf at step 9; .*step-00000006"):
        train(stage, optim=OPTIM, loop=LOOP, out=tmp_path, resume=False)
    assert [path.name for path in state.states(tmp_path / STATES)] == ["step-00000003", "step-00000006"]


def test_what_killed_writers_left_is_cleared_and_never_taken_for_a_state(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    leftovers = [tmp_path / STATES / name for name in (".writing-step-00000021", ".dropped-step-00000015")]
    leftovers.append(tmp_path / f".{RESULT}-abc")
    for folder in leftovers:
        folder.mkdir()
        (folder / "half").write_text("x")
    assert run(tmp_path, resume=True)[1].step == 20
    assert [folder for folder in leftovers if folder.exists()] == []


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    assert [path.name for path in state.states(tmp_path / STATES)] == ["step-00000018", "step-00000020"]


def test_best_evaluation_is_the_result_and_patience_ends_the_run(tmp_path: Path) -> None:
    stage = ToyStage()
    figures = iter([0.5, 1.0, 3.0, 2.0, 2.5, 9.0])
    stage.evaluate = lambda: {"fit": next(figures)}  # type: ignore[method-assign]
    loop = replace(LOOP, evaluate_every=2, best_by="fit", patience=2)
    result = train(stage, optim=OPTIM, loop=loop, out=tmp_path, resume=False)
    assert result.step == 8
    assert (tmp_path / RESULT / "step").read_text() == "4"


def test_start_stays_the_result_where_training_only_makes_it_worse(tmp_path: Path) -> None:
    stage = ToyStage()
    figures = iter([5.0, 4.0, 3.0])
    stage.evaluate = lambda: {"fit": next(figures)}  # type: ignore[method-assign]
    loop = replace(LOOP, evaluate_every=2, best_by="fit", patience=2)
    result = train(stage, optim=OPTIM, loop=loop, out=tmp_path, resume=False)
    assert result.step == 4
    assert (tmp_path / RESULT / "step").read_text() == "0"


def test_unknown_best_figure_names_the_known_ones_before_the_first_step(tmp_path: Path) -> None:
    stage = ToyStage()
    with pytest.raises(TrainingConfigError, match=r"is 'cider'; the evaluation's figures are fit"):
        train(stage, optim=OPTIM, loop=replace(LOOP, best_by="cider"), out=tmp_path, resume=False)
    assert stage.calls == 0


def test_end_of_time_on_an_evaluated_step_is_evaluated_and_sampled_once(tmp_path: Path) -> None:
    stage, evaluations = ToyStage(pause_s=0.05), []

    def evaluate() -> dict[str, float]:
        evaluations.append(stage.calls)
        return {"fit": float(stage.calls)}

    stage.evaluate = evaluate  # type: ignore[method-assign]
    loop = replace(LOOP, accumulate=1, evaluate_every=1, max_minutes=0.001)
    result = train(stage, optim=OPTIM, loop=loop, out=tmp_path, resume=False)
    assert result.step < 40
    assert evaluations == list(range(1, result.step + 1))
    assert result.figures == {"fit": float(result.step)}
    for kind in ("evaluation", "samples"):
        assert [line["step"] for line in _log(tmp_path) if kind in line] == evaluations


def _interrupting_second_call(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def interrupting(*args: Any) -> Any:
        result = function(*args)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result

    return interrupting


def _curve(out: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(out / CURVES), size_guidance={"scalars": 0})
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def _wait_for_step(out: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while _last_step(out) < step:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run made no steps"
        time.sleep(0.02)


def _last_step(out: Path) -> int:
    if not (out / LOG).is_file():
        return 0
    whole_lines = (out / LOG).read_text().split("\n")[:-1]
    return max((json.loads(line)["step"] for line in whole_lines), default=0)


def _log(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]
