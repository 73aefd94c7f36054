"""Near-duplicates: found by the embeddings of the engine's own encoder, captioned once where asked for."""

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from service.engine.engine import Engine
from service.engine.observer import Stage
from service.engine.settings import EngineSettings
from service.images import ImageLimits
from service.jobs.archive import output_key
from service.jobs.captioner import ItemCaptioner
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import CaptionJob, ItemResult
from service.jobs.likeness import ChunkLikeness, Groups, packed
from service.jobs.outputs import DUPLICATES
from service.jobs.parts import JobParts
from service.metrics import Metrics
from service.registry import ServedModel
from service.serving import Loaded
from tests.service import pictures
from tests.service.jobs.conftest import job_on
from tests.service.jobs.fakes import InlineWorker, OneModel

GREEDY = {"strategy": "greedy"}


class Counted(Metrics):
    """Counts what the engine does."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None:
        self.counts[stage] = self.counts.get(stage, 0) + batch_size


@pytest.fixture
def done() -> Counted:
    return Counted()


@pytest.fixture
def captioner(parts: JobParts, tiny_model: ServedModel, done: Counted) -> Iterator[ItemCaptioner]:
    engine = Engine(tiny_model.captioner, settings=EngineSettings(precision="fp32"), observer=done)
    engine.start()
    done.counts.clear()
    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6)
    yield ItemCaptioner(OneModel(Loaded(tiny_model, engine)), parts.datasets, limits=limits, decode_threads=2)
    engine.stop(drain_s=0)


def again(data: bytes) -> bytes:
    """The same picture with one pixel changed."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        changed = image.convert("RGB")
        changed.putpixel((0, 0), (0, 0, 0))
        changed.save(file, "PNG")
    return file.getvalue()


def job_with_copies(
    parts: JobParts, *, duplicates: str = "ignore", outputs: tuple[str, ...] = ()
) -> CaptionJob:
    """Four pictures; then one broken, and each of the four again; chunks of six."""
    writer = DatasetWriter(parts.store, max_items=100)
    photos = pictures.photos(4)
    for number, data in enumerate([*photos, photos[0][:99], *map(again, photos)]):
        writer.add_photo(f"{number:02d}.jpg", data)
    return job_on(
        writer.finish(),
        chunk_items=6,
        options=GREEDY,
        duplicates=duplicates,
        duplicate_similarity=0.9999,
        outputs=outputs,
    )


def captions(parts: JobParts, job: CaptionJob) -> dict[int, dict[str, object]]:
    lines = (parts.store.get(output_key(job.id, 1, "captions.jsonl")) or b"").splitlines()
    return {line["item"]: line for line in map(json.loads, lines)}


def run(parts: JobParts, job: CaptionJob, captioner: ItemCaptioner) -> None:
    parts.jobs.submit(job)
    InlineWorker(parts, captioner=captioner, save_s=60).do_all()
    counts = parts.jobs.status(job.id).counts
    assert (counts.done, counts.failed) == (8, 1)


def test_report_lists_the_groups_and_changes_no_caption(
    parts: JobParts, captioner: ItemCaptioner, done: Counted
) -> None:
    plain, job = job_with_copies(parts), job_with_copies(parts, duplicates="report")
    run(parts, plain, captioner)
    assert parts.store.get(output_key(plain.id, 1, DUPLICATES)) is None
    done.counts.clear()
    run(parts, job, captioner)
    assert done.counts["encode"] == 8, "embeddings are those that captioning needs anyway"
    rows = list(map(json.loads, (parts.store.get(output_key(job.id, 1, DUPLICATES)) or b"").splitlines()))
    assert [(row["item"], [one["item"] for one in row["duplicates"]]) for row in rows] == [
        (number, [5 + number]) for number in range(4)
    ]
    assert rows[0]["duplicates"][0]["file_name"] == "05.jpg"
    for item, line in captions(parts, job).items():
        assert "embedding" not in line
        assert "same_as" not in line
        assert line["captions"] == captions(parts, plain)[item]["captions"]


def test_caption_once_gives_all_of_a_group_the_first_ones_caption(
    parts: JobParts, captioner: ItemCaptioner, done: Counted
) -> None:
    job = job_with_copies(parts, duplicates="caption-once", outputs=("txt",))
    run(parts, job, captioner)
    assert done.counts["encode"] == 8
    assert done.counts["score"] == 7, "the copy in the first one's chunk is not captioned"
    lines = captions(parts, job)
    for number in range(4):
        assert lines[5 + number]["captions"] == lines[number]["captions"]
        named = lines[5 + number]["same_as"]
        assert isinstance(named, dict)
        assert (named["item"], named["file_name"]) == (number, f"{number:02d}.jpg")
        assert "same_as" not in lines[number]


def test_chunk_that_is_cut_short_again_and_again_changes_nothing(
    parts: JobParts, captioner: ItemCaptioner
) -> None:
    whole, cut = (job_with_copies(parts, duplicates="caption-once") for _ in range(2))
    run(parts, whole, captioner)
    parts.jobs.submit(cut)
    for _ in range(30):  # each stay with a chunk ends after one result, and the next goes on from it
        InlineWorker(parts, captioner=captioner, save_s=0, chunk_s=0).do_one()
    assert parts.jobs.status(cut.id).state == "succeeded"
    first, second = captions(parts, whole), captions(parts, cut)
    assert [(one["captions"], one.get("same_as")) for one in first.values()] == [
        (one["captions"], one.get("same_as")) for one in second.values()
    ]


def result(item: int, angle: float, **more: object) -> ItemResult:
    """The result of a photo whose embedding points at an angle."""
    vector = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
    fields = {"captions": [{"text": f"caption {item}"}], "embedding": packed(vector), **more}
    return ItemResult.model_validate(
        {"item": item, "file_name": f"{item}.jpg", "outcome": "captioned", **fields}
    )


def test_group_forms_around_its_first_photo_not_along_a_chain() -> None:
    groups = Groups([result(number, 0.1 * number) for number in range(5)], similarity=float(np.cos(0.25)))
    assert [(row["item"], [one["item"] for one in row["duplicates"]]) for row in groups.rows()] == [
        (0, [1, 2]),
        (3, [4]),
    ]


def test_group_of_a_chunk_joins_the_group_of_its_first_photo() -> None:
    own = [result(0, 0.0), result(4, 0.1)]
    left = result(5, 0.3, same_as={"item": 4, "file_name": "4.jpg", "similarity": 0.98})
    groups = Groups([*own, left], similarity=float(np.cos(0.25)))
    (row,) = groups.rows()
    assert [one["item"] for one in row["duplicates"]] == [4, 5]
    texts = [(one.model_extra or {})["captions"][0]["text"] for one in groups.apply([*own, left])]
    assert texts == ["caption 0"] * 3


def test_photo_waits_for_the_caption_it_is_left_to_and_fails_with_it() -> None:
    likeness = ChunkLikeness(0.99, known=[])
    vector = np.array([1.0, 0.0], dtype=np.float32)
    assert likeness.is_new(3, vector)
    assert not likeness.is_new(4, vector)
    assert likeness.is_new(1, vector), "only earlier photos count"
    assert list(likeness.settle(result(4, 0.0, captions=[]))) == []
    failed = ItemResult.model_validate(
        {"item": 3, "file_name": "3.jpg", "outcome": "failed", "problem": {"status": 500}}
    )
    settled = list(likeness.settle(failed))
    assert [(one.item, one.outcome) for one in settled] == [(3, "failed"), (4, "failed")]


def test_photos_known_from_an_earlier_run_of_the_chunk_count() -> None:
    known = [result(0, 0.0), result(1, 0.0, same_as={"item": 0, "file_name": "0.jpg", "similarity": 1.0})]
    likeness = ChunkLikeness(0.99, known=known)
    assert not likeness.is_new(2, np.array([1.0, 0.0], dtype=np.float32))
    (settled,) = likeness.settle(result(2, 0.0, captions=[]))
    assert (settled.model_extra or {})["captions"] == [{"text": "caption 0"}]
