"""A dry run: everything that a step reads is looked at, and one real step on one batch of photos is made."""

import io
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from training import distributed
from training.config import Places, StageConfig, TextConfig, TrainedConfig, UnsupervisedConfig
from training.data import Problems, read_caption_groups
from training.disk import WriteError, free_bytes
from training.inputs import check_inputs
from training.kept_settings import setting_faults
from training.labelled import read_labelled
from training.loop import RESULT, STATES, TrainingDivergedError, train
from training.order import total_steps
from training.shards import UNREADABLE_INDEX
from training.sources import read_captioned_sources
from training.stages import entry_of
from training.state import KEPT_STATES
from training.unsupervised import read_unlabelled

SEEN_VALIDATION = 4
"""Validation photos that a dry run captions: enough to know the names of the figures."""

GB = 1e9


@dataclass(frozen=True)
class DryRun:
    """Args:
    rows: what was looked at and what was found.
    faults: what would stop the step, one line each; empty: it can start.
    problems: what of the data would be left out.
    """

    name: str
    rows: tuple[tuple[str, str], ...]
    faults: tuple[str, ...]
    problems: Problems

    def table(self) -> Table:
        """For the terminal."""
        table = Table(self.name, "", box=None)
        for row in self.rows:
            table.add_row(*row)
        return table


def dry_run(name: str, config: StageConfig, places: Places, *, earlier: Collection[str] = ()) -> DryRun:
    """What a step would meet; takes seconds and leaves nothing behind.

    Args:
        earlier: names of the recipe's steps before this one, whose results need not exist yet.
    """
    inputs = check_inputs(config, places, earlier=earlier)
    rows, faults = inputs.rows, inputs.faults
    faults += setting_faults(config, places.out)
    if isinstance(config, TrainedConfig) and not faults:
        if inputs.pending:
            rows.append(("memory, disk", f"known when {', '.join(inputs.pending)} is there"))
        else:
            try:
                rows.append(("steps", _course(config, places, inputs.problems)))
                need = measure_need(config, places, inputs.num_photos, inputs.problems)
                rows += need.rows()
                faults += need.faults(places)
            except (ValueError, OSError, WriteError, TrainingDivergedError) as error:
                faults.append(str(error))
    rows += [("left out", f"{count} x {kind}") for kind, count in inputs.problems.counts().items()]
    return DryRun(name, tuple(rows), tuple(faults), inputs.problems)


@dataclass(frozen=True)
class Need:
    """Bytes that a step takes, from one real step of it.

    Args:
        weights: of all networks, CLIP and a frozen reference included.
        optimizer: gradients, moments and average.
        activations: what one forward pass keeps for the backward pass.
        features: pixels or CLIP features of all photos, in the cache.
        states: of the saved states, one more than are kept, and the result.
    """

    weights: int
    optimizer: int
    activations: int
    features: int
    states: int

    @property
    def memory(self) -> int:
        return self.weights + self.optimizer + self.activations

    def rows(self) -> list[tuple[str, str]]:
        return [
            (
                "memory",
                f"about {_gb(self.memory)}: weights {_gb(self.weights)}, gradients and optimizer "
                f"{_gb(self.optimizer)}, one batch {_gb(self.activations)}; {_gb(free_memory())} are free",
            ),
            ("disk", f"features {_gb(self.features)}, states and result {_gb(self.states)}"),
        ]

    def faults(self, places: Places) -> Iterator[str]:
        if self.memory > free_memory():
            yield (
                f"memory: {_gb(self.memory)} are needed, {_gb(free_memory())} are free; "
                "lower loop.batch_size and raise loop.accumulate as much"
            )
        disk, free = self.features + self.states, free_bytes(places.cache) + _size(places.cache)
        if disk > free:
            yield f"disk: {_gb(disk)} are needed in {places.cache.parent}, {_gb(free)} are free"


def measure_need(config: TrainedConfig, places: Places, num_photos: int, problems: Problems) -> Need:
    """Makes one step on one batch of photos in a scratch folder and weighs what it took.

    Raises:
        ValueError, OSError, WriteError, TrainingDivergedError: as the step itself would.
    """
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(io.StringIO()):
        few = Places(places.data, Path(scratch) / "run", runs=places.runs or places.out.parent)
        build = entry_of(config).build
        assert build is not None
        device = distributed.start(config.loop.device)
        stage = build(_with_few_photos(config), few, problems, device=device)
        loop = replace(config.loop, max_steps=1, accumulate=1)
        with activations() as kept:
            train(stage, optim=config.optim, loop=loop, out=few.out, resume=False)
        parameters = list(stage.module.parameters())
        trained = sum(_bytes(value) for value in parameters if value.requires_grad)
        return Need(
            weights=sum(map(_bytes, parameters)) + _reference_bytes(config, stage.module),
            optimizer=trained * (4 if config.loop.average_decay else 3),
            activations=kept.bytes,
            features=_bytes_per_photo(few.cache) * num_photos,
            states=(KEPT_STATES + 1) * _size(few.out / STATES) + _size(few.out / RESULT),
        )


@dataclass
class Activations:
    bytes: int = 0


@contextmanager
def activations() -> Iterator[Activations]:
    """Counts the memory that forward passes keep for their backward pass; weights are not counted."""
    kept, seen = Activations(), set[int]()

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept


def free_memory() -> int:
    """Bytes that a new process can have: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():  # what this process keeps for its next tensors is free too
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize  # no such file on macOS: not known
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _course(config: TrainedConfig, places: Places, problems: Problems) -> str:
    """How long the step is; what turns out too long or unreadable makes it a little shorter."""
    loop, items = config.loop, _num_items(config, places, problems)
    if items == 0:
        raise problems.nothing_left("the training data")
    steps = total_steps(
        items=items,
        batch_size=loop.batch_size,
        accumulate=loop.accumulate,
        epochs=loop.epochs,
        max_steps=loop.max_steps,
    )
    size = min(loop.batch_size, items) * loop.accumulate
    return f"{steps} of {size}: {steps * size / items:.3g} passes over {items}"


def _num_items(config: TrainedConfig, places: Places, problems: Problems) -> int:
    """Photos, or groups of captions, of which a batch is made."""
    data = config.data
    if isinstance(config, UnsupervisedConfig):
        return len(read_unlabelled(data, places, problems))
    if not isinstance(config, TextConfig):
        return len(read_labelled(data, places, problems))
    labelled = len(read_captioned_sources(places.sources(data.labelled), problems)) if data.labelled else 0
    return labelled + len(read_caption_groups([places.data / file for file in data.text], problems))


def _with_few_photos(config: TrainedConfig) -> TrainedConfig:
    batch = config.loop.batch_size
    data = replace(
        config.data,
        max_labelled=min(batch, config.data.max_labelled or batch),
        max_unlabelled=min(batch, config.data.max_unlabelled or batch),
        max_validation=SEEN_VALIDATION,
    )
    return replace(config, data=data)


def _reference_bytes(config: TrainedConfig, module: nn.Module) -> int:
    if not isinstance(config, UnsupervisedConfig):
        return 0
    parameters = module.named_parameters()
    return sum(_bytes(value) for name, value in parameters if not name.startswith("clip."))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes_per_photo(cache: Path) -> int:
    """Of what the step has put into a cache: folders of arrays with one row a photo."""
    arrays = [next(index.parent.glob("*.npy")) for index in cache.glob(f"*/*/{UNREADABLE_INDEX}")]
    stored = sum(file.stat().st_size for file in cache.rglob("*.npy"))
    return stored // max(1, sum(len(np.load(file, mmap_mode="r")) for file in arrays))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _gb(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < GB else f"{count / GB:.1f} GB"
