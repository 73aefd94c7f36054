"""The data of a run in its folder: photos to train on, photos held out, labelled photos if there are any."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.finetuning.photos import (
    Photo,
    PhotoReader,
    by_content,
    fingerprint_of,
    place,
    split,
    write_results,
)
from service.finetuning.settings import FEWEST_PHOTOS
from service.finetuning.task import RunFolder, Task
from service.images import ImageLimits
from service.jobs.dataset_captions import read_captions
from service.jobs.datasets import Datasets
from service.jobs.documents import ItemResult
from service.jobs.store import ArtifactStore
from training.data import Problems, clean_captions, read_records
from training.folders import METADATA

TRAIN, HELD_OUT, REPLAY, LABELLED_HELD_OUT = "train", "held-out", "replay", "labelled-held-out"

FEWEST_LABELLED = 40
MOST_LABELLED_HELD_OUT = 300

_CAPTIONS = "captions.jsonl"


class NotEnoughPhotosError(ValueError):
    """Too few photos to learn from or to measure on; the message counts them."""


@dataclass(frozen=True)
class RunData:
    """What a run has.

    Args:
        fingerprint: of the unlabelled photos' content, and of the labelled ones' where there are any.
        names: what the photos in the run's folder are called in their dataset.
    """

    fingerprint: str
    num_train: int
    num_held_out: int
    num_labelled: int
    names: Mapping[str, str]


def prepare(task: Task, folder: RunFolder) -> RunData:
    """Collects all photos anew.

    Raises:
        NotEnoughPhotosError: of either kind.
        DataError: captions that cannot be read.
        ServiceError: the store failed.
    """
    shutil.rmtree(folder.photos, ignore_errors=True)
    store = ArtifactStore.open(task.store)
    datasets = Datasets(store)
    limits = ImageLimits(max_bytes=task.max_image_bytes, max_pixels=task.max_image_pixels)
    reader = PhotoReader(datasets, limits, threads=task.decode_threads)
    photos, results = _collect_unlabelled(reader, datasets, task, folder)
    write_results(results, folder.items)
    if len(photos) < FEWEST_PHOTOS:
        raise NotEnoughPhotosError(_too_few(results))
    fingerprint = fingerprint_of(photos)
    train, held_out = split(photos, fingerprint)
    place(train, folder.photos / TRAIN)
    place(held_out, folder.photos / HELD_OUT)
    labelled: list[Photo] = []
    if task.replay_dataset is not None:
        withheld = {photo.sha256 for photo in held_out}
        labelled = _place_labelled(reader, store, task.replay_dataset, folder, withheld=withheld)
        fingerprint = f"{fingerprint[:32]}-{fingerprint_of(labelled)[:32]}"
    names = {photo.path.name: photo.name for photo in held_out}
    return RunData(fingerprint, len(train), len(held_out), len(labelled), names)


def _collect_unlabelled(
    reader: PhotoReader, datasets: Datasets, task: Task, folder: RunFolder
) -> tuple[list[Photo], list[ItemResult]]:
    dataset = datasets.get(task.dataset)
    total, most = dataset.num_items, task.asked.max_photos
    chosen = range(total) if total <= most else [at * total // most for at in range(most)]
    photos, results = reader.collect(dataset, chosen, folder.photos / "new")
    reason = {"reason": f"more than max_photos ({most})"}
    left_out = sorted(set(range(total)).difference(chosen))
    results += [
        ItemResult(item=number, file_name=item.name, outcome="skipped", **reason)
        for number, item in datasets.items(dataset.id, left_out)
    ]
    return photos, sorted(results, key=lambda result: result.item)


def _too_few(results: Sequence[ItemResult]) -> str:
    outcomes = Counter(result.outcome for result in results)
    used, failed, skipped = outcomes["used"], outcomes["failed"], outcomes["skipped"]
    return (
        f"{used} different photos can be used, and a run needs {FEWEST_PHOTOS}: of {len(results)} photos "
        f"{failed} cannot be read (see errors) and {skipped} are left out; add photos"
    )


def _place_labelled(
    reader: PhotoReader, store: ArtifactStore, dataset_id: str, folder: RunFolder, *, withheld: set[str]
) -> list[Photo]:
    datasets = Datasets(store)
    dataset = datasets.get(dataset_id)
    captions = _read_captions(datasets, store, dataset_id, folder)
    items = datasets.items(dataset.id, range(dataset.num_items))
    numbers = [number for number, item in items if item.name in captions]
    photos, _ = reader.collect(dataset, numbers, folder.photos / "new-labelled")
    photos = [photo for photo in photos if photo.sha256 not in withheld]
    if len(photos) < FEWEST_LABELLED:
        raise NotEnoughPhotosError(
            f"the replay dataset has {len(photos)} readable photos with captions in {METADATA}; "
            f"it needs {FEWEST_LABELLED}"
        )
    count = min(max(len(photos) // 10, FEWEST_LABELLED // 2), MOST_LABELLED_HELD_OUT)
    ordered = by_content(photos, fingerprint_of(photos))
    for part, name in ((ordered[:count], LABELLED_HELD_OUT), (ordered[count:], REPLAY)):
        place(part, folder.photos / name)
        lines = [{"file_name": one.path.name, "captions": captions[one.name]} for one in part]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder.photos / name / METADATA).write_text(text, encoding="utf-8")
    return photos


def _read_captions(
    datasets: Datasets, store: ArtifactStore, dataset_id: str, folder: RunFolder
) -> dict[str, list[str]]:
    """Captions by the item's name; a name on several lines has the captions of all."""
    path: Path = folder.photos / _CAPTIONS
    path.write_bytes(read_captions(datasets.get(dataset_id), store))
    problems, captions = Problems(), dict[str, list[str]]()
    for number, record in read_records(path):
        name = record.get("file_name")
        if isinstance(name, str):
            found = clean_captions(record, f"{METADATA}:{number}", problems)
            captions.setdefault(name.removeprefix("./"), []).extend(found)
    return {name: several for name, several in captions.items() if several}
