"""Data sources as settings name them: a folder, a caption file with a split, or webdataset shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path

from training.coco import read_captioned_json
from training.data import CaptionedImages, ImageFile, Images, Problems
from training.folders import read_captioned_images, read_images
from training.lazy import Joined, Mapped
from training.webdataset import ShardImage, find_shards, read_captioned_shards, read_image_shards


@dataclass(frozen=True)
class RunCaptions:
    """Captions that a training step has written for photos that lie elsewhere.

    Args:
        folder: of the step, with metadata.jsonl.
        images: folder that its file names start from.
    """

    folder: Path
    images: Path

    @property
    def name(self) -> str:
        return self.folder.name


Source = Path | RunCaptions


def read_captioned_sources(sources: Sequence[Source], problems: Problems) -> CaptionedImages:
    """The labelled images of several sources, one after the other.

    A source is a folder with metadata.jsonl, COCO captions (captions_train2014.json), Karpathy's file with a
    split (dataset_coco.json#train+restval), or webdataset shards: a folder of them or name-{000..009}.tar.

    Raises:
        DataError: a source that cannot be used at all; what is wrong with parts of it goes to `problems`.
    """
    parts = [_read_captioned(source, problems) for source in sources]
    if len(parts) == 1:
        return parts[0]
    images = _joined([part.images for part in parts], sources)
    return CaptionedImages(
        images, Joined([part.captions for part in parts]), Joined([part.sources for part in parts])
    )


def read_image_sources(sources: Sequence[Source], problems: Problems) -> Images:
    """The images of several sources, one after the other; captions beside them are not used.

    Raises:
        DataError: as read_captioned_sources.
    """
    parts = [_read_images(source, problems) for source in sources]
    return parts[0] if len(parts) == 1 else _joined(parts, sources)


def identity(file: ImageFile) -> str:
    """The same for the same photo, whatever path or link it is reached by; a copy of it is another photo."""
    if isinstance(file, ShardImage):
        return f"{os.path.realpath(file.shard)}: {file.member}"
    return os.path.realpath(str(file))


def _read_captioned(source: Source, problems: Problems) -> CaptionedImages:
    if isinstance(source, RunCaptions):
        return read_captioned_images(source.folder, problems, images=source.images)
    path, split = _with_split(source)
    if path.suffix == ".json":
        return read_captioned_json(path, split, problems)
    shards = find_shards(source)
    return read_captioned_shards(shards, problems) if shards else read_captioned_images(source, problems)


def _read_images(source: Source, problems: Problems) -> Images:
    if isinstance(source, RunCaptions):
        return _read_captioned(source, problems).images
    path, split = _with_split(source)
    if path.suffix == ".json":
        return read_captioned_json(path, split, problems).images
    shards = find_shards(source)
    return read_image_shards(shards, problems) if shards else read_images(source, problems)


def _with_split(source: Path) -> tuple[Path, str | None]:
    name, _, split = source.name.partition("#")
    return (source.with_name(name), split) if split and name.endswith(".json") else (source, None)


def _joined(parts: Sequence[Images], sources: Sequence[Source]) -> Images:
    """One after the other, the source's name before each id, so that no two are the same."""
    names = _told_apart([source.name for source in sources])
    named = [
        replace(part, ids=Mapped(part.ids, partial(_below, name)))
        for part, name in zip(parts, names, strict=True)
    ]
    return Images(Joined([part.ids for part in named]), Joined([part.files for part in named]))


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number where an earlier one is the same: train, train-2."""
    taken: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        taken.append(next(one for one in chain([name], numbered) if one not in taken))
    return taken


def _below(name: str, id: str) -> str:
    return f"{name}/{id}"
