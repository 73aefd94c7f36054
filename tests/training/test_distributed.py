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
from tests.tiny import tiny_checkpoint, tiny_merges
from tests.training.conftest import write_scenes
from training import distributed
from training.config import SupervisedConfig
from training.data import PROBLEMS
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
TEXT_SETTINGS = """
tokenizer = "bpe.txt.gz"
[data]
text = ["text.jsonl"]
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
mapping = {kind = "mlp", prefix_length = 2}
decoder = {width = 32, layers = 1, heads = 2, max_length = 24}
[loop]
device = "cpu"
epochs = 3
batch_size = 8
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
    (tmp_path / "supervised.toml").write_text(SETTINGS)
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
def test_two_processes_exchange_rows_gradients_and_results_and_end_together(tmp_path: Path) -> None:
    _run(["tests.training.ranks", str(tmp_path)], processes=2)


@pytest.mark.slow
def test_four_processes_start_from_one_new_clip_and_share_captions_of_which_few_have_a_pair(
    root: Path,
) -> None:
    captions = [["the dog runs", "a dog"] if number < 2 else ["the cat"] for number in range(8)]
    lines = [{"image": str(number), "text": text} for number, group in enumerate(captions) for text in group]
    (root / "text.jsonl").write_text("\n".join(json.dumps(line) for line in [*lines, {"text": ""}]))
    (root / "runs" / "bpe.txt.gz").write_bytes(tiny_merges())
    (root / "text.toml").write_text(TEXT_SETTINGS)
    out = _train(root, "text", processes=4, stage="text").parent
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()
    assert [problem["kind"] for problem in json.loads((out / PROBLEMS).read_text())] == ["empty caption"]
    log = [line for line in _log(root, "text") if "loss" in line]
    assert all("captioning" in line for line in log)
    assert any("contrastive" in line for line in log)


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
    with pytest.raises(TrainingConfigError, match=r"gives 2 images a batch; 3 .*: raise loop\.batch_size or"):
        distributed.own_share(np.arange(2))


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingConfigError, match=r"loop\.device.*\n.*'gpu', which cannot be used here"):
        distributed.start("gpu")


def test_automatic_device_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.start("auto") == torch.device("cpu")
    assert SupervisedConfig().loop.device == "auto"


def _train(root: Path, name: str, *arguments: str, processes: int, stage: str = "supervised") -> Path:
    """The checkpoint of a run of the real command, by torchrun where there are several processes."""
    out = root / "runs" / name
    command = ["service.cli", "train", stage, str(root / f"{stage}.toml")]
    _run([*command, "--data", str(root), "--out", str(out), *arguments], processes=processes)
    return out / "model"


def _run(module: list[str], *, processes: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-port", str(_free_port())]
    program = [sys.executable, *(launcher if processes > 1 else []), "-m", *module]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        program, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as launched:
        try:
            output, _ = launched.communicate()
        except (
            BaseException
        ):  # the test's own time limit: torchrun ends its processes, which might wait for ever
            launched.terminate()
            raise
    assert launched.returncode == 0, output


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
