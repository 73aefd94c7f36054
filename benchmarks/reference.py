"""The reference recipe at its real size with random weights: `python -m benchmarks.reference PHOTOS`.

PHOTOS is a folder with metadata.jsonl. Builds ViT-B-32 and GPT-2 small, trains a few steps of each stage by
training/recipes/reference or another --recipe, each in a process of its own, and prints what a step costs.
It shows that the whole configuration works and what it needs; random weights say nothing of quality.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import bytes_to_unicode
from rich.console import Console
from rich.table import Table
from transformers import GPT2Tokenizer

from models.clip import ClipEncoder
from models.clip_folder import write_local_config
from models.tokenizer import Gpt2Vocabulary
from training import distributed
from training.config import Places, SupervisedConfig, UnsupervisedConfig
from training.data import Problems
from training.folders import METADATA
from training.loop import train
from training.run import read_step
from training.stage import Losses, Stage
from training.supervised import build_supervised
from training.unsupervised import build_unsupervised

RECIPE = Path("training/recipes/reference")
GPT2_MERGES = 50_000


def main() -> None:
    """Prepares random weights and runs both stages, or, as its own child, one of them."""
    arguments = _arguments()
    if arguments.stage:
        print(json.dumps(_run_stage(arguments, Path(arguments.work))))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _prepare(work, arguments.photos, num_photos=arguments.images, gpt2_files=arguments.gpt2_files)
        files = sorted(arguments.recipe.glob("*.toml"))
        reports = {file.stem: _in_a_process(file, work) for file in files}
    Console().print(_table(reports))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--images", type=int, default=16, help="photos, all of them in every batch")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--gpt2-files", type=Path, help="vocab.json and merges.txt; without, one as large is made"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


def _prepare(work: Path, photos: Path, *, num_photos: int, gpt2_files: Path | None) -> None:
    """The first photos with their captions, ViT-B-32 at random weights, GPT-2's vocabulary."""
    lines = (photos / METADATA).read_text().splitlines()[:num_photos]
    for folder in ("train", "unlabelled"):
        (work / "data" / folder).mkdir(parents=True)
        for line in lines:
            name = json.loads(line)["file_name"]
            (work / "data" / folder / name).symlink_to((photos / name).resolve())
    (work / "data" / "train" / METADATA).write_text("\n".join(lines) + "\n")
    preprocess = {
        "size": 224,
        "mean": OPENAI_DATASET_MEAN,
        "std": OPENAI_DATASET_STD,
        "interpolation": "bicubic",
    }
    write_local_config(
        work / "runs" / "clip",
        name="ViT-B-32, random",
        model=open_clip.get_model_config("ViT-B-32"),
        preprocess=preprocess,
        merges=None,
    )
    torch.manual_seed(0)
    ClipEncoder.create_local(work / "runs" / "clip").save(work / "runs" / "clip", dtype=torch.float32)
    vocabulary = Gpt2Vocabulary.from_files(gpt2_files) if gpt2_files else _vocabulary_of_byte_pairs()
    (work / "data" / "gpt2").mkdir()
    vocabulary.save(work / "data" / "gpt2")


def _vocabulary_of_byte_pairs() -> Gpt2Vocabulary:
    """As many ids as GPT-2's 50,257: the bytes, 50,000 pairs of them, end-of-text."""
    letters = list(bytes_to_unicode().values())
    merges: Any = [(left, right) for left in letters for right in letters][:GPT2_MERGES]
    tokens = [*letters, *(left + right for left, right in merges), "<|endoftext|>"]
    return Gpt2Vocabulary(GPT2Tokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=merges))


def _in_a_process(file: Path, work: Path) -> Mapping[str, Any]:
    """A process for each stage, so that the peak of its memory is its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.reference",
        *sys.argv[1:],
        "--stage",
        str(file),
        "--work",
        str(work),
    ]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: Mapping[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return report


def _run_stage(arguments: argparse.Namespace, work: Path) -> Mapping[str, Any]:
    _, config = read_step(arguments.stage, arguments.overrides)
    assert isinstance(config, SupervisedConfig | UnsupervisedConfig)
    loop = replace(
        config.loop,
        max_steps=arguments.steps,
        batch_size=arguments.images,
        evaluate_every=0,
        best_by="",
        patience=0,
    )
    config = replace(config, loop=loop, data=replace(config.data, validation=""))
    places = Places(work / "data", work / "runs" / arguments.stage.stem)
    began = time.perf_counter()
    stage = TimedStage(_build(config, places))
    built_s = time.perf_counter() - began
    train(stage, optim=config.optim, loop=loop, out=places.out, resume=False)
    learnt = [value for value in stage.module.parameters() if value.requires_grad]
    return {
        "device": str(learnt[0].device),
        "build_s": built_s,
        "learnt": sum(value.numel() for value in learnt),
        "losses": stage.losses_seen,
        "wall_s": np.diff(stage.wall_s).tolist(),
        "cpu_s": np.diff(stage.cpu_s).tolist(),
        "images": arguments.images * loop.accumulate,
        "peak_bytes": _peak_bytes(),
    }


def _build(config: SupervisedConfig | UnsupervisedConfig, places: Places) -> Stage:
    device = distributed.start(config.loop.device)
    if isinstance(config, UnsupervisedConfig):
        return build_unsupervised(config, places, Problems(), device=device)
    decoder = replace(config.model.decoder, pretrained=None, gpt2_files="gpt2")
    config = replace(config, model=replace(config.model, clip="clip", clip_pretrained=None, decoder=decoder))
    return build_supervised(config, places, Problems(), device=device)


class TimedStage:
    """A stage that notes when each step began, in seconds of wall and of CPU time, and the losses."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.name, self.module, self.items = stage.name, stage.module, stage.items
        self.samples, self.write_result = stage.samples, stage.write_result
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.losses_seen: list[float] = []

    def losses(self, rows: np.ndarray, *, done: float, generator: torch.Generator) -> Losses:
        self._note_time()
        losses = self._stage.losses(rows, done=done, generator=generator)
        self.losses_seen.append(float(losses.total.detach()))
        return losses

    def evaluate(self) -> dict[str, float]:
        self._note_time()  # the last step has ended
        return self._stage.evaluate()

    def _note_time(self) -> None:
        self.wall_s.append(time.perf_counter())
        self.cpu_s.append(time.process_time())


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path(
        "/proc/self/status"
    ).read_text()  # getrusage's also counts the process that this one is from
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


def _table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("", *reports, box=None, title=f"{torch.get_num_threads()} threads, random weights")
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "device": lambda report: report["device"],
        "parameters that learn": lambda report: f"{report['learnt'] / 1e6:.1f} M",
        "loss of each step": lambda report: ", ".join(f"{loss:.3f}" for loss in report["losses"]),
        "seconds of each step": lambda report: ", ".join(f"{seconds:.1f}" for seconds in report["wall_s"]),
        "CPU seconds of each step": lambda report: ", ".join(f"{seconds:.1f}" for seconds in report["cpu_s"]),
        "images/s, best step": lambda report: f"{report['images'] / min(report['wall_s']):.2f}",
        "images per CPU second": lambda report: f"{report['images'] / min(report['cpu_s']):.2f}",
        "peak memory": lambda report: f"{report['peak_bytes'] / 1e9:.2f} GB",
    }
    for title, value in rows.items():
        table.add_row(title, *(value(report) for report in reports.values()))
    return table


if __name__ == "__main__":
    main()
