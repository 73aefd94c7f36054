"""`python -m service.finetuning.process FOLDER`: a run from photos to report, in a process of its own.

It reads FOLDER/task.json, goes on from what an earlier process left, and leaves FOLDER/ending.json. A signal
saves the training's state and ends it; it can be killed at any moment.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

from models.clip_folder import ClipError
from models.config import ConfigError
from models.manifest import CheckpointError
from service.errors import DatasetNotFoundError, InvalidDatasetError, ModelNotFoundError
from service.finetuning.data import (
    HELD_OUT,
    LABELLED_HELD_OUT,
    NotEnoughPhotosError,
    RunData,
    prepare,
)
from service.finetuning.gate import judge
from service.finetuning.publishing import open_registry, publish
from service.finetuning.recipe import stage_two
from service.finetuning.reporting import Findings, compared, measure, write_report
from service.finetuning.task import Ending, RunFolder, Task
from training.config import Places
from training.data import DataError, Problems
from training.loop import TrainingDivergedError
from training.report import Report
from training.toml_reader import TrainingConfigError
from training.unsupervised import run_unsupervised

STOPPED = 75
"""Exit status after a signal: there is more to do (EX_TEMPFAIL)."""

LASTING_ERRORS = (
    NotEnoughPhotosError,
    DatasetNotFoundError,
    InvalidDatasetError,
    ModelNotFoundError,
    DataError,
    TrainingConfigError,
    TrainingDivergedError,
    CheckpointError,
    ClipError,
    ConfigError,
)
"""Errors that another try would meet again."""

_DATA = "data.json"


def main(root: Path) -> int:
    """The exit status: 0 when the run has ended, however it did."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    folder = RunFolder(root)
    task = Task.read(folder.task)
    if task.threads:
        torch.set_num_threads(task.threads)
    try:
        ending = run(task, folder)
    except LASTING_ERRORS as error:
        traceback.print_exception(error)  # for the worker's log
        ending = Ending(error=_told(error, folder))
    except KeyboardInterrupt:
        return STOPPED
    scratch = folder.ending.with_suffix(".writing")
    ending.write(scratch)
    os.replace(scratch, folder.ending)  # noqa: PTH105
    return 0


def run(task: Task, folder: RunFolder) -> Ending:
    """Prepares, measures the base, trains, measures the result, judges, publishes.

    Raises:
        ServiceError: the store failed; another try may not.
        LASTING_ERRORS
    """
    _say(folder, "preparing")
    data = prepare(task, folder)
    _forget_other_data(folder, data)
    registry = open_registry(task)
    base = registry.folder(registry.find(task.base))
    before = _measure_both(base, task, folder, data)
    _say(folder, "training")
    config = stage_two(
        task, base, has_replay=data.num_labelled > 0, base_words=before[0].figures["length_mean"]
    )
    places = Places(folder.photos, folder.training)
    run_unsupervised(config, places, Problems(), resume=True)
    _say(folder, "reporting")
    after = _measure_both(folder.model, task, folder, data)
    labelled = compared(after[1], before[1]) if after[1] and before[1] else None
    verdict = judge(
        before[0].figures,
        after[0].figures,
        labelled=(labelled.against.figures, labelled.report.figures) if labelled else None,
        limits=task.gate,
    )
    write_report(Findings(compared(after[0], before[0]), labelled, verdict), task, data, folder)
    _say(folder, "publishing")
    return publish(registry, task, folder, verdict)


def _measure_both(
    checkpoint: Path, task: Task, folder: RunFolder, data: RunData
) -> tuple[Report, Report | None]:
    held_out = measure(checkpoint, task, folder, HELD_OUT, data)
    if not data.num_labelled:
        return held_out, None
    return held_out, measure(checkpoint, task, folder, LABELLED_HELD_OUT, data)


def _forget_other_data(folder: RunFolder, data: RunData) -> None:
    """A state that saw other photos cannot go on with these: its rows mean other ones."""
    seen = folder.training / _DATA
    known = json.loads(seen.read_text())["fingerprint"] if seen.is_file() else None
    if known != data.fingerprint:
        shutil.rmtree(folder.training, ignore_errors=True)
        folder.training.mkdir(parents=True)
        seen.write_text(json.dumps({"fingerprint": data.fingerprint}))


def _told(error: Exception, folder: RunFolder) -> str:
    """What callers may read of it: no path of this machine; files of the run as its folder calls them."""
    if isinstance(error, CheckpointError):
        return error.reason
    if isinstance(error, ClipError):
        return "a CLIP that the run needs cannot be loaded; the worker's log has the reason"
    return str(error).replace(f"{folder.root}/", "")


def _say(folder: RunFolder, phase: str) -> None:
    folder.phase.write_text(phase)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
