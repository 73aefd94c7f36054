"""`semicap train` as real processes on real photos, small enough to be started many times."""

import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from service import cli
from tests.service import pictures
from tests.tiny import tiny_checkpoint
from training.journal import LOG
from training.loop import STATES

CAPTIONS = ("the cat runs in the grass", "the red ball on the water", "the man in the snow")
"""Of scikit-image's cat, coffee cup and astronaut, in the words that the tiny vocabulary has."""

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
END_S = 500

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["training.cli", "tensorboard.summary.writer.record_writer"])


def write_photos(folder: Path, *, count: int) -> None:
    """Crops of scikit-image's photos with two captions each, and the captions alone beside them."""
    folder.mkdir(parents=True)
    lines = []
    for number, photo in enumerate(pictures.photos(count, edge=40)):
        (folder / f"{number}.jpg").write_bytes(photo)
        caption = CAPTIONS[number % len(CAPTIONS)]
        lines.append({"file_name": f"{number}.jpg", "captions": [caption, f"{caption} ."]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [caption for line in lines for caption in line["captions"]]
    (folder.parent / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


class Runs:
    """A data root with labelled "photos", and a folder of runs with a tiny checkpoint in "start"."""

    def __init__(self, folder: Path, *, num_photos: int = 24) -> None:
        self.data, self.folder = folder / "data", folder / "runs"
        write_photos(self.data / "photos", count=num_photos)
        tiny_checkpoint(self.folder / "start")

    def arguments(self, config: str, out: str, *options: str) -> list[str]:
        """The command line of one step, its configuration written to a file of the run's name."""
        file = self.folder / f"{out}.toml"
        file.write_text(config)
        stage = config.partition('stage = "')[2].partition('"')[0]
        return [
            "train", stage, str(file), "--data", str(self.data), "--out", str(self.folder / out), *options
        ]  # fmt: skip


def start_command(arguments: list[str], **options: Any) -> "subprocess.Popen[str]":
    """The command line as a shell starts it; ten seconds pass before it trains."""
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ONE_THREAD,
        **options,
    )


def output_of(process: "subprocess.Popen[str]") -> str:
    """What a command said, when it has ended."""
    with process:
        try:
            return process.communicate(timeout=END_S)[0]
        finally:
            process.kill()


def fork_command(arguments: list[str], output: Path) -> BaseProcess:
    """The same in a process forked from one that has done the imports, so that killing it is cheap."""
    process = _FORKS.Process(target=_run, args=(arguments, output))
    process.start()
    return process


def _run(arguments: list[str], output: Path) -> None:
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["semicap", *arguments]
    cli.main()


def log_of(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log, without their speed."""
    text = (out / LOG).read_text() if (out / LOG).is_file() else ""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


def is_writing_a_state(out: Path) -> bool:
    """Whether a state lies there unfinished."""
    return any((out / STATES).glob(".writing-step-*"))
