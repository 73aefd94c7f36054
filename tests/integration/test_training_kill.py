"""`semicap train` killed by SIGKILL again and again ends where the run that nobody touched ends."""

import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.checkpoint import load_captioner
from tests.integration.training_process import (
    END_S,
    Runs,
    fork_command,
    is_writing_a_state,
    log_of,
    output_of,
    start_command,
)
from training.journal import CURVES

TOLERANCE = 1e-6
STEPS = 45
Moment = Callable[[], bool]
LOOP = f"""
[optim]
lr = 1e-3
warmup_steps = 5

[loop]
max_steps = {STEPS}
epochs = 60
batch_size = 8
precision = "fp32"
accumulate = 2
evaluate_every = 15
save_every = 3
average_decay = 0.9
"""
TEXT = f"""
stage = "text"
tokenizer = "start/checkpoint/clip/bpe.txt.gz"

[data]
text = ["text.jsonl"]
labelled = ["photos"]

[towers]
embed_dim = 16
image_tower = "test_vit"
image_size = 160
context_length = 16
text_width = 32
text_heads = 2
text_layers = 1

[model]
max_tokens = 12
mapping = {{ kind = "mlp", prefix_length = 3 }}
decoder = {{ width = 32, layers = 1, heads = 2, max_length = 40, dropout = 0.1 }}
{LOOP.replace("evaluate_every = 15", "")}
"""
JOINT = f"""
stage = "joint"
init = "1-killed/model"
stored_dtype = "float32"

[data]
labelled = ["photos"]
{LOOP}
"""
SUPERVISED = f"""
stage = "supervised"
captions_per_image = 2
stored_dtype = "float32"

[data]
labelled = ["photos"]
validation = "photos"
max_validation = 4

[model]
clip = "start/parts/clip"
max_tokens = 12
mapping = {{ kind = "mlp", prefix_length = 3 }}
decoder = {{ width = 32, layers = 2, heads = 2, max_length = 40, dropout = 0.1 }}

{LOOP}
best_by = "cider_d"
"""
UNSUPERVISED = f"""
stage = "unsupervised"
init = "3-killed/model"
replay_images = 4
captions_per_image = 2
stored_dtype = "float32"

[data]
unlabelled = ["photos"]
labelled = ["photos"]
validation = "photos"
max_validation = 4

[reward]
contrastive = 0.1
kl = 0.1
length = 0.1
replay = 1.0

[rollout]
samples = 2
max_tokens = 8
{LOOP}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Photos, and what both stages make of them."""
    return Runs(tmp_path_factory.mktemp("killed"))


def test_killed_text_stage_ends_where_the_unbroken_run_ends(runs: Runs) -> None:
    _compare(runs, TEXT, "1-unbroken", "1-killed", _moments(runs.folder / "1-killed"))


def test_killed_joint_stage_ends_where_the_unbroken_run_ends(runs: Runs) -> None:
    _compare(runs, JOINT, "2-unbroken", "2-killed", _moments(runs.folder / "2-killed"))


def test_killed_stage_1_ends_where_the_unbroken_run_ends(runs: Runs) -> None:
    _compare(runs, SUPERVISED, "3-unbroken", "3-killed", _moments(runs.folder / "3-killed"))


def test_killed_stage_2_ends_where_the_unbroken_run_ends(runs: Runs) -> None:
    _compare(runs, UNSUPERVISED, "4-unbroken", "4-killed", _moments(runs.folder / "4-killed"))


def _moments(out: Path) -> list[Moment]:
    """Before the first saved state, while one is written, and anywhere."""
    anywhere = random.randrange(20, STEPS)
    return [
        lambda: _steps(out) >= 1,
        lambda: _steps(out) >= 10 and is_writing_a_state(out),
        lambda: _steps(out) >= anywhere,
    ]


def _compare(runs: Runs, config: str, unbroken: str, killed: str, moments: list[Moment]) -> None:
    """Trains twice, once with kills, and holds weights, log and curves of the two against each other."""
    untouched = start_command(runs.arguments(config, unbroken))
    arguments = runs.arguments(config, killed, "--resume")
    for moment in moments:
        _kill_at(moment, fork_command(arguments, runs.folder / f"{killed}.txt"))
    resumed = output_of(start_command(arguments))
    assert "finished" in resumed
    assert "finished" in output_of(untouched)

    expected = load_captioner(runs.folder / unbroken / "model").state_dict()
    actual = load_captioner(runs.folder / killed / "model").state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=TOLERANCE)
    assert log_of(runs.folder / killed) == log_of(runs.folder / unbroken)
    _assert_each_step_once(runs.folder / killed, STEPS)


def _kill_at(moment: Moment, process: BaseProcess) -> None:
    deadline = time.monotonic() + END_S
    while not moment():
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run came to nothing"
        time.sleep(0.0005)
    process.kill()
    process.join()
    assert process.exitcode == -9


def _assert_each_step_once(out: Path, steps: int) -> None:
    assert [line["step"] for line in log_of(out) if "loss" in line] == list(range(1, steps + 1))
    events = EventAccumulator(str(out / CURVES), size_guidance={"scalars": 0})
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == list(range(1, steps + 1))


def _steps(out: Path) -> int:
    return max((line["step"] for line in log_of(out)), default=0)
