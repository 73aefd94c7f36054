"""What a step reads: the results of other steps, photos and captions; all that is wrong with them at once."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import open_clip

from models.clip_folder import HUB_PREFIX
from models.manifest import CheckpointError, read_manifest
from training.config import RUNS, AverageConfig, Places, ReleaseConfig, StageConfig, TextConfig
from training.config_parts import SHIPPED, DataConfig
from training.data import DataError, Problems, read_texts
from training.evaluate import read_photos_to_judge
from training.sources import Source, read_captioned_sources, read_image_sources
from training.toml_reader import Named, paths_named


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
    for setting, relative in _read_paths(config, "file"):
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
    yield from (named for named in _read_paths(config, "result") if named[1] != SHIPPED)
    data = _data_of(config)
    for key, sources in (
        ("data.labelled", data.labelled),
        ("data.unlabelled", data.unlabelled),
        ("data.validation", (data.validation,)),
    ):
        yield from ((key, name.removeprefix(RUNS)) for name in sources if name.startswith(RUNS))


def _read_paths(config: StageConfig, names: Named) -> Iterator[tuple[str, str]]:
    """Without those of a new model or new towers, where the step starts from some that are there."""
    for key, path in paths_named(config, names):
        has_model = key.startswith("model.") and bool(getattr(config, "init", ""))
        has_towers = key.startswith("towers.") and isinstance(config, TextConfig) and bool(config.model.clip)
        if not has_model and not has_towers:
            yield key, path


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
