"""Captions in JSON files: COCO's (`images`, `annotations`) and Karpathy's dataset_coco.json with splits."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import (
    CaptionedImages,
    CaptionedWriter,
    DataError,
    Problems,
    add_captioned,
    clean_captions,
    finish_captioned,
)

LOOKED_AT = 100
"""Images tried in a folder before it is given up."""


@dataclass(frozen=True)
class _Entry:
    """An image that the file names, where it does, and the captions that it gives it."""

    where: str
    name: str
    captions: tuple[str, ...]


def read_captioned_json(path: Path, split: str | None, problems: Problems) -> CaptionedImages:
    """The labelled images that a JSON file names; its whole text is in memory while it is read, not after.

    Images are looked for in the file's folder and the one above, there also in `images` and in the folder
    that COCO's file names end with (captions_val2014.json: val2014).

    Args:
        split: of Karpathy's file: train, restval, val, test, or several with + between; None where the file
            has no splits.

    Raises:
        DataError: not such a file, no such split, or no image of it can be found.
    """
    document = _read(path)
    is_karpathy = any("sentences" in image for image in document["images"])
    if is_karpathy:
        entries = _karpathy_entries(path, document, split, problems)
    elif split is None:
        entries = _coco_entries(path, document, problems)
    else:
        raise DataError(f"{path} has no splits, so #{split} names none; leave it out")
    return _captioned(path, list(entries), problems)


def _read(path: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}") from error
    images = document.get("images") if isinstance(document, dict) else None
    if (
        not isinstance(document, dict)
        or not isinstance(images, list)
        or not all(isinstance(image, dict) for image in images)
    ):
        raise DataError(
            f"{path} has no list `images`: neither COCO captions nor Karpathy's dataset_coco.json"
        )
    return document


def _karpathy_entries(
    path: Path, document: Mapping[str, Any], split: str | None, problems: Problems
) -> Iterator[_Entry]:
    images = document["images"]
    known = Counter(str(image.get("split")) for image in images)
    wanted = set(split.split("+")) if split else set()
    if not wanted or not wanted <= known.keys():
        sizes = ", ".join(f"{name} ({count})" for name, count in known.items())
        asked = f"has no split {split!r}" if split else "has splits and none is named"
        raise DataError(f"{path} {asked}; name one or several: {path.name}#{'+'.join(known)} of {sizes}")
    for number, image in enumerate(images):
        if image.get("split") in wanted:
            where = f"{path} images[{number}]"
            texts = [sentence.get("raw") for sentence in _objects(image, "sentences", where)]
            captions = clean_captions({"captions": texts}, where, problems)
            yield _Entry(
                where, str(Path(image.get("filepath", ""), _name(image, "filename", where))), captions
            )


def _coco_entries(path: Path, document: Mapping[str, Any], problems: Problems) -> Iterator[_Entry]:
    captions: dict[Any, list[str]] = {image.get("id"): [] for image in document["images"]}
    for number, annotation in enumerate(_objects(document, "annotations", str(path))):
        where = f"{path} annotations[{number}]"
        texts = clean_captions({"text": annotation.get("caption")}, where, problems)
        if annotation.get("image_id") in captions:
            captions[annotation["image_id"]] += texts
        else:
            problems.add("caption without image", f"{where} image_id {annotation.get('image_id')}")
    for number, image in enumerate(document["images"]):
        where = f"{path} images[{number}]"
        yield _Entry(where, _name(image, "file_name", where), tuple(captions[image.get("id")]))


def _objects(record: Mapping[str, Any], key: str, where: str) -> Sequence[Mapping[str, Any]]:
    objects = record.get(key)
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise DataError(f"{where}: {key} must be a list of objects")
    return objects


def _name(image: Mapping[str, Any], key: str, where: str) -> str:
    name = image.get(key)
    if not isinstance(name, str):
        raise DataError(f"{where}: {key} is {name!r}; each image needs the name of its file")
    return name


def _captioned(path: Path, entries: Sequence[_Entry], problems: Problems) -> CaptionedImages:
    folder = _image_folder(path, [entry.name for entry in entries[:LOOKED_AT]])
    images = CaptionedWriter()
    for entry in entries:
        add_captioned(images, folder, entry.name, entry.captions, where=entry.where, problems=problems)
    return finish_captioned(images, folder, named_by=path)


def _image_folder(path: Path, names: Sequence[str]) -> Path:
    """The first folder that holds one of these images."""
    subfolders = ("", "images", path.stem.rpartition("_")[2])
    tried = [parent / subfolder for parent in path.absolute().parents[:2] for subfolder in subfolders]
    for folder in tried:
        if any((folder / name).is_file() for name in names):
            return folder
    folders = ", ".join(str(folder) for folder in tried)
    raise DataError(f"none of the first {len(names)} images that {path} names is in {folders}")
