"""What a step reads: the results of other steps, photos and captions; all that is wrong with them at once."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import open_clip

from models.clip_folder import HUB_PREFIX
from models.manifest import CheckpointError, read_manifest
from training.config import (
    RUNS,
    AverageConfig,
    JointConfig,
    Places,
    PseudoConfig,
    ReleaseConfig,
    StageConfig,
    SupervisedConfig,
    TextConfig,
    UnsupervisedConfig,
)
from training.config_parts import SHIPPED, DataConfig
from training.data import DataError, Problems, read_texts
from training.evaluate import read_photos_to_judge
from training.sources import Source, read_captioned_sources, read_image_sources


@dataclass
class Inputs:
    """Args:
    rows: what was looked at and what was found there.
    faults: what would stop the step, one line each.
    pending: results that an earlier step of the recipe has yet to make.
    num_photos: photos whose pixels or features the step computes.
    problems: what the step would leave out.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    num_photos: int = 0
    problems: Problems = field(default_factory=Problems)


def check_inputs(config: StageConfig, places: Places, *, earlier: Collection[str] = ()) -> Inputs:
    """Looks at everything that a step names, without decoding a photo.

    Args:
        earlier: names of the steps that run before this one.
    """
    inputs = Inputs()
    for setting, relative in _results_read(config):
        _check_result(setting, relative, places, earlier, inputs)
    for setting, relative in _files_read(config):
        found = (places.data / relative).exists()
        inputs.rows.append((setting, f"{relative}: {'found' if found else 'missing'}"))
        if not found:
            inputs.faults.append(f"{setting}: {places.data / relative} does not exist")
    _check_data(_data_of(config), places, inputs)
    return inputs


def missing_results(config: StageConfig, places: Places, *, earlier: Collection[str]) -> list[str]:
    """The faults of a step that names a result which is not there and which no earlier step makes."""
    inputs = Inputs()
    for setting, relative in _results_read(config):
        _check_result(setting, relative, places, earlier, inputs)
    return inputs.faults


def _data_of(config: StageConfig) -> DataConfig:
    if isinstance(config, AverageConfig):
        return DataConfig()
    return DataConfig(validation=config.validation) if isinstance(config, ReleaseConfig) else config.data


def _results_read(config: StageConfig) -> Iterator[tuple[str, str]]:
    named: list[tuple[str, str]] = []
    if isinstance(config, PseudoConfig):
        named = [("clip", config.clip)]
    elif isinstance(config, TextConfig):
        named = [("tokenizer", config.tokenizer), ("model.clip", config.model.clip)]
    elif isinstance(config, JointConfig):
        named = [("init", config.init)]
    elif isinstance(config, SupervisedConfig | UnsupervisedConfig):
        named = [("init", config.init), ("evaluation.second_scorer", config.evaluation.second_scorer)]
        if isinstance(config, SupervisedConfig) and not config.init:
            named.append(("model.clip", config.model.clip))
    elif isinstance(config, AverageConfig | ReleaseConfig):
        named = [("checkpoints", checkpoint) for checkpoint in config.checkpoints]
        if isinstance(config, ReleaseConfig):
            named.append(("second_scorer", config.second_scorer))
    data = _data_of(config)
    for key, sources in (
        ("data.labelled", data.labelled),
        ("data.unlabelled", data.unlabelled),
        ("data.validation", (data.validation,)),
    ):
        named += [(key, name.removeprefix(RUNS)) for name in sources if name.startswith(RUNS)]
    yield from ((setting, relative) for setting, relative in named if relative not in ("", SHIPPED))


def _files_read(config: StageConfig) -> Iterator[tuple[str, str]]:
    if isinstance(config, TextConfig) and config.towers.image_weights and not config.model.clip:
        yield "towers.image_weights", config.towers.image_weights
    if isinstance(config, SupervisedConfig) and config.model.decoder.gpt2_files and not config.init:
        yield "model.decoder.gpt2_files", config.model.decoder.gpt2_files
    if isinstance(config, PseudoConfig):
        yield "classifier", config.classifier


def _check_result(
    setting: str, relative: str, places: Places, earlier: Collection[str], inputs: Inputs
) -> None:
    path = places.run(relative)
    maker = Path(relative).parts[0]
    if path.exists():
        inputs.rows.append((setting, f"{relative}: found"))
        is_checkpoint = setting == "checkpoints" or (setting == "init" and (path / "config.json").exists())
        if is_checkpoint:
            try:
                read_manifest(path)
            except CheckpointError as error:
                inputs.faults.append(f"{setting}: {error}")
    elif maker in earlier:
        inputs.rows.append((setting, f"{relative}: made by step {maker}"))
        inputs.pending.append(relative)
    elif setting == "model.clip" and _is_open_clip_s(relative):
        inputs.rows.append((setting, f"{relative}: open_clip's, from the hub or its cache"))
        inputs.pending.append(relative)
    else:
        inputs.rows.append((setting, f"{relative}: missing"))
        inputs.faults.append(f"{setting}: {path} does not exist, and no earlier step makes it")


def _is_open_clip_s(name: str) -> bool:
    return name.startswith(HUB_PREFIX) or name in open_clip.list_models()


def _check_data(data: DataConfig, places: Places, inputs: Inputs) -> None:
    def labelled(path: Source) -> tuple[int, str]:
        captioned = read_captioned_sources([path], inputs.problems)
        captions = sum(len(group) for group in captioned.captions)
        return len(captioned), f"{len(captioned)} photos, {captions} captions"

    def judged(path: Source) -> tuple[int, str]:
        count = len(read_photos_to_judge(path, inputs.problems))
        return count, f"{count} photos"

    def unlabelled(path: Source) -> tuple[int, str]:
        count = len(read_image_sources([path], inputs.problems))
        return count, f"{count} photos"

    def text(path: Source) -> tuple[int, str]:
        assert isinstance(path, Path)
        return 0, f"{len(read_texts([path], inputs.problems).texts)} captions"

    validation = (data.validation,) if data.validation else ()
    for setting, sources, read, limit in (
        ("data.labelled", data.labelled, labelled, data.max_labelled),
        ("data.unlabelled", data.unlabelled, unlabelled, data.max_unlabelled),
        ("data.validation", validation, judged, data.max_validation),
        ("data.text", data.text, text, 0),
    ):
        there = [name for name in sources if not name.startswith(RUNS) or _run_of(name, places).exists()]
        read_from = zip(there, places.sources(there), strict=True)
        total = sum(_check_source(setting, name, source, read, inputs) for name, source in read_from)
        inputs.num_photos += min(total, limit or total)


def _run_of(name: str, places: Places) -> Path:
    return places.run(name.removeprefix(RUNS))


def _check_source(
    setting: str, name: str, source: Source, read: Callable[[Source], tuple[int, str]], inputs: Inputs
) -> int:
    try:
        count, found = read(source)
    except (DataError, OSError) as error:
        inputs.rows.append((setting, f"{name}: cannot be used"))
        inputs.faults.append(f"{setting}: {error}")
        return 0
    inputs.rows.append((setting, f"{name}: {found}"))
    return count
