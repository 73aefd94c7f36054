"""Two real processes under torchrun train as one does, and one goes on where two have stopped."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import load_captioner
from tests.tiny import tiny_checkpoint
from tests.training.conftest import write_scenes
from training import distributed
from training.config import SupervisedConfig
from training.loop import STATES
from training.state import states
from training.toml_reader import TrainingConfigError

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = """
init = "start/checkpoint"
captions_per_image = 2
stored_dtype = "float32"
[data]
labelled = ["photos"]
validation = "photos"
views = ["original"]
workers = 1
[optim]
lr = 1e-2
warmup_steps = 2
[loop]
device = "cpu"
epochs = 6
batch_size = 4
accumulate = 2
evaluate_every = 3
save_every = 2
average_decay = 0.5
"""
CAPTIONS = ["dog runs on grass", "cat runs in snow"]
"""Of equal length: a loss that averages over tokens weighs each process's tokens by its images."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "photos")
    names = [json.loads(line)["file_name"] for line in _lines(tmp_path / "photos" / "metadata.jsonl")]
    lines = [json.dumps({"file_name": name, "captions": CAPTIONS}) for name in names]
    (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    tiny_checkpoint(tmp_path / "runs" / "start")
    (tmp_path / "stage.toml").write_text(SETTINGS)
    return tmp_path


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_goes_on_from_their_state(root: Path) -> None:
    alone = _train(root, "alone", processes=1)
    together = _train(root, "together", processes=2)
    _assert_same_weights(together, alone)
    assert _figures(root, "together") == pytest.approx(_figures(root, "alone"), rel=1e-3)
    steps = [line["step"] for line in _log(root, "together") if "loss" in line]
    assert steps == list(range(1, 7))  # the second process writes no log
    shutil.rmtree(states(root / "runs" / "together" / STATES)[-1])
    shutil.rmtree(together)
    _assert_same_weights(_train(root, "together", "--resume", processes=1), alone)


@pytest.mark.slow
def test_two_processes_exchange_rows_gradients_and_results() -> None:
    _run(["tests.training.ranks"], processes=2)


def test_process_alone_takes_the_whole_batch() -> None:
    rows = np.arange(5)
    assert distributed.num_ranks() == 1
    assert np.array_equal(distributed.own_share(rows), rows)
    assert distributed.added_up({"loss": 2.0}) == {"loss": 2.0}
    assert distributed.by_first_rank(lambda: "done") == "done"


@pytest.mark.parametrize(("rank", "share"), [(0, [0, 1]), (1, [2, 3]), (2, [4])])
def test_batch_is_shared_out_whole(monkeypatch: pytest.MonkeyPatch, rank: int, share: list[int]) -> None:
    _pretend(monkeypatch, rank=rank, count=3)
    assert distributed.own_share(np.arange(5)).tolist() == share


def test_batch_smaller_than_the_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, rank=0, count=3)
    with pytest.raises(TrainingConfigError, match="gives 2 images a batch; 3 processes share it"):
        distributed.own_share(np.arange(2))


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingConfigError, match=r"loop\.device.*\n.*'gpu', which cannot be used here"):
        distributed.start("gpu")


def test_automatic_device_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.start("auto") == torch.device("cpu")
    assert SupervisedConfig().loop.device == "auto"


def _train(root: Path, name: str, *arguments: str, processes: int) -> Path:
    """The checkpoint of a run of the real command, by torchrun where there are several processes."""
    out = root / "runs" / name
    command = ["service.cli", "train", "supervised", str(root / "stage.toml")]
    _run([*command, "--data", str(root), "--out", str(out), *arguments], processes=processes)
    return out / "model"


def _run(module: list[str], *, processes: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-port", str(_free_port())]
    program = [sys.executable, *(launcher if processes > 1 else []), "-m", *module]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def _pretend(monkeypatch: pytest.MonkeyPatch, *, rank: int, count: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: count)


def _assert_same_weights(first: Path, second: Path) -> None:
    expected = load_captioner(second).state_dict()
    for name, value in load_captioner(first).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def _figures(root: Path, name: str) -> dict[str, Any]:
    figures: dict[str, Any] = [line for line in _log(root, name) if "evaluation" in line][-1]["evaluation"]
    return figures


def _log(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(root / "runs" / name / "log.jsonl")]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
