"""`semicap train` on full disks, poisoned numbers and bad data, as real processes: one line, nothing lost."""

import json
import resource
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from models.manifest import read_manifest
from tests.integration.training_process import Runs, log_of, output_of, start_command
from training.loop import STATES
from training.order import batch_rows
from training.state import states

CONFIG = """
stage = "supervised"
init = "start/checkpoint"

[data]
labelled = ["photos"]
views = ["original"]

[loop]
epochs = 4
batch_size = 8
save_every = 2
"""
PHOTOS = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """24 labelled photos and a tiny checkpoint."""
    return Runs(tmp_path_factory.mktemp("faults"))


def test_state_that_the_disk_refuses_ends_the_run_with_one_line_and_keeps_the_last_one(runs: Runs) -> None:
    """The kernel itself refuses: a limit on the size of a file stands in for a full disk."""
    out = runs.folder / "full"
    first = output_of(start_command(runs.arguments(CONFIG, "full", "--set", "loop.max_steps=4")))
    assert "finished" in first
    kept = states(out / STATES)[-1]
    size = (kept / "state.safetensors").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size // 2, hard))
    refused = runs.arguments(CONFIG, "full", "--resume")
    lines = _errors(output_of(start_command(refused, preexec_fn=limit)))
    assert len(lines) == 1
    assert f"{out / STATES}/step-00000006 could not be written: " in lines[0]
    assert "File too large" in lines[0]
    assert f"the last good state is {kept}. Free some space and go on with --resume" in lines[0]
    assert [path.name for path in sorted((out / STATES).iterdir())] == ["step-00000002", "step-00000004"]
    assert "finished" in output_of(start_command(runs.arguments(CONFIG, "full", "--resume")))
    assert [line["step"] for line in log_of(out) if "loss" in line] == list(range(1, 13))


def test_poisoned_features_end_the_run_with_the_last_good_state_kept(runs: Runs) -> None:
    """The third batch of an epoch is not a number; the state after the second is the last good one."""
    assert "finished" in output_of(start_command(runs.arguments(CONFIG, "clean")))
    (file,) = (runs.folder / "cache").rglob("embedding.npy")
    healthy = np.load(file)
    poisoned = healthy.copy()
    poisoned[batch_rows(2, total=len(healthy), batch_size=8, seed=0)] = np.nan
    np.save(file, poisoned)
    out = runs.folder / "poisoned"
    try:
        lines = _errors(output_of(start_command(runs.arguments(CONFIG, "poisoned"))))
    finally:
        np.save(file, healthy)
    (kept,) = states(out / STATES)
    assert len(lines) == 1
    assert f"the loss is nan at step 2; the last good state is {kept}. Lower optim.lr" in lines[0]
    assert "finished" in output_of(start_command(runs.arguments(CONFIG, "poisoned", "--resume")))
    assert _weights(out) == _weights(runs.folder / "clean")


def test_data_set_with_broken_photos_and_lines_trains_and_lists_them(tmp_path: Path) -> None:
    runs = Runs(tmp_path, num_photos=PHOTOS)
    folder = runs.data / "photos"
    for name, content in (("7.jpg", b"no picture"), ("60.jpg", (folder / "60.jpg").read_bytes()[:500])):
        (folder / name).write_bytes(content)
    bad_lines = [
        {"file_name": "lost.jpg", "captions": ["the cat"]},
        {"file_name": "8.jpg", "captions": ["the cat"]},
        {"file_name": "extra.jpg", "captions": [" ", "the dog " * 20]},
    ]
    (folder / "extra.jpg").write_bytes((folder / "8.jpg").read_bytes())
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text() + "".join(json.dumps(line) + "\n" for line in bad_lines))
    output = output_of(start_command(runs.arguments(CONFIG, "bad", "--set", "loop.epochs=1")))
    assert "finished" in output
    listed = {
        (problem["kind"], problem["where"].split(": ")[0])
        for problem in json.loads((runs.folder / "bad" / "data-problems.json").read_text())
    }
    too_long = f"{metadata}:{PHOTOS + 3} extra.jpg 40 of 12 tokens"
    assert listed == {
        ("unreadable image", str(folder / "7.jpg")),
        ("unreadable image", str(folder / "60.jpg")),
        ("missing image", f"{metadata}:{PHOTOS + 1} lost.jpg"),
        ("duplicated image", f"{metadata}:{PHOTOS + 2} 8.jpg"),
        ("empty caption", f"{metadata}:{PHOTOS + 3} caption 1"),
        ("caption too long", too_long),
        ("no captions", f"{metadata}:{PHOTOS + 3} extra.jpg"),
    }
    assert "skipped 2 x unreadable image" in output
    assert f"duplicated image: {metadata}:{PHOTOS + 2} 8.jpg" in output


def _weights(out: Path) -> str:
    return read_manifest(out / "model").weights_sha256


def _errors(output: str) -> list[str]:
    """What a run said at its end, less its figures: a traceback would be many lines."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    return lines[start:]
