"""Broken photos through a running `semicap serve`: an error line for each; a retry runs the repaired ones.

SEMICAP_BULK_PHOTOS=1000 takes so many of ../shared/data and the model that comes along.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.manifest import DEFAULT_CHECKPOINT
from tests.integration.supervised import Serve, wait_for
from tests.service import pictures

COUNT = int(os.environ.get("SEMICAP_BULK_PHOTOS", "0"))
BROKEN = max(8, COUNT // 25)
REPAIRED = max(2, BROKEN // 4)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def photos_of(count: int) -> list[bytes]:
    """Real ones: of the folder beside the clone where many are asked for, else crops of a few."""
    if not COUNT:
        return pictures.photos(count)
    folder = Path(__file__).resolve().parents[2].parent / "shared/data/coco-unlabeled"
    photos = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:count]]
    assert len(photos) == count, f"{folder} has {len(photos)} photos"
    return photos


def broken_files(whole: bytes) -> Iterator[bytes]:
    """Every way in which a file is no photo, in turn."""
    huge = pictures.one_bit_png(12_000, 12_000)
    while True:
        yield from (b"", b"this is no photo", whole[: len(whole) // 2], whole[:20], huge, bytes(4096))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server folder of photos, every so many of them broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photos = photos_of(COUNT or 40)
    broken = broken_files(photos[0])
    step = len(photos) // BROKEN
    for number, data in enumerate(photos):
        is_broken = number % step == 0 and number // step < BROKEN
        name = f"{number:05d}-{'broken' if is_broken else 'whole'}.jpg"
        (folder / name).write_bytes(next(broken) if is_broken else data)
    return folder


@pytest.fixture
def serve(tiny_checkpoint: Path, folder: Path, tmp_path: Path) -> Iterator[Serve]:
    checkpoint = DEFAULT_CHECKPOINT if COUNT else tiny_checkpoint
    serve = Serve(checkpoint, tmp_path / "data", tmp_path / "log", SEMICAP_DATASET_ROOTS=str(folder.parent))
    yield serve
    serve.process.terminate()
    serve.process.wait(120)


def test_broken_photos_are_error_lines_and_a_retry_runs_those_that_were_repaired(
    serve: Serve, folder: Path
) -> None:
    wait_for(serve.answers, "the service does not answer")
    names = sorted(path.name for path in folder.iterdir())
    bad = [name for name in names if "broken" in name]
    assert len(bad) == BROKEN
    asked = {"folder": str(folder), "options": {"num_beams": 2}}
    job = serve.ask("POST", "/v1/jobs/captions", json.dumps(asked).encode(), "application/json")
    address = f"/v1/jobs/{job['id']}"
    ended = _ended(serve, address)
    errors = serve.lines(f"{address}/errors")
    captions = serve.lines(f"{address}/results")
    assert (ended["state"], ended["counts"]["done"], ended["counts"]["failed"]) == (
        "succeeded",
        len(names) - BROKEN,
        BROKEN,
    )
    assert sorted(line["file_name"] for line in errors) == bad
    assert all(len(line["problem"]["detail"]) > 10 for line in errors), "each says why"
    assert sorted(line["file_name"] for line in captions) == [name for name in names if name not in bad]

    for name, data in zip(bad[:REPAIRED], photos_of(REPAIRED), strict=True):
        (folder / name).write_bytes(data)
    retried = serve.ask("POST", f"{address}/retry")
    assert retried["retried"] == REPAIRED
    ended = _ended(serve, address)
    print(f"\n{len(names)} photos, {BROKEN} broken, {REPAIRED} repaired and run again: {ended['counts']}")
    assert (ended["counts"]["done"], ended["counts"]["failed"]) == (
        len(names) - BROKEN + REPAIRED,
        BROKEN - REPAIRED,
    )
    assert [line["file_name"] for line in serve.lines(f"{address}/errors")] == bad[REPAIRED:]
    again = serve.lines(f"{address}/results")
    assert {line["file_name"]: line["captions"] for line in captions}.items() <= {
        line["file_name"]: line["captions"] for line in again
    }.items(), "what was captioned was not captioned again"


def _ended(serve: Serve, address: str) -> Any:
    wait_for(lambda: serve.ask("GET", address)["ended"] is not None, "the job does not end")
    return serve.ask("GET", address)
