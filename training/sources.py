"""Data sources as settings name them: a folder, a caption file with a split, or webdataset shards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.coco import read_captioned_json
from training.data import CaptionedImages, Images, Problems
from training.folders import read_captioned_images, read_images
from training.lazy import Joined, Mapped
from training.webdataset import find_shards, read_captioned_shards, read_image_shards


def read_captioned_sources(sources: Sequence[Path], problems: Problems) -> CaptionedImages:
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


def read_image_sources(sources: Sequence[Path], problems: Problems) -> Images:
    """The images of several sources, one after the other; captions beside them are not used.

    Raises:
        DataError: as read_captioned_sources.
    """
    parts = [_read_images(source, problems) for source in sources]
    return parts[0] if len(parts) == 1 else _joined(parts, sources)


def _read_captioned(source: Path, problems: Problems) -> CaptionedImages:
    path, split = _with_split(source)
    if path.suffix == ".json":
        return read_captioned_json(path, split, problems)
    shards = find_shards(source)
    return read_captioned_shards(shards, problems) if shards else read_captioned_images(source, problems)


def _read_images(source: Path, problems: Problems) -> Images:
    path, split = _with_split(source)
    if path.suffix == ".json":
        return read_captioned_json(path, split, problems).images
    shards = find_shards(source)
    return read_image_shards(shards, problems) if shards else read_images(source, problems)


def _with_split(source: Path) -> tuple[Path, str | None]:
    name, _, split = source.name.partition("#")
    return (source.with_name(name), split) if split and name.endswith(".json") else (source, None)


def _joined(parts: Sequence[Images], sources: Sequence[Path]) -> Images:
    """One after the other, the source's name before each id, so that no two are the same."""
    named = [
        replace(part, ids=Mapped(part.ids, f"{source.name}/{{}}".format))
        for part, source in zip(parts, sources, strict=True)
    ]
    return Images(Joined([part.ids for part in named]), Joined([part.files for part in named]))
