"""Thousands of photos as one zip, through a running `semicap serve`: one line for each of them.

Only with SEMICAP_BULK_PHOTOS=3000, by the model that comes along; benchmarks/jobs.py compares the rate
with the engine's.
"""

import io
import json
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from models.manifest import DEFAULT_CHECKPOINT
from tests.integration.supervised import Serve, wait_for
from tests.service import pictures

COUNT = int(os.environ.get("SEMICAP_BULK_PHOTOS", "0"))

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not COUNT, reason="SEMICAP_BULK_PHOTOS says how many photos to send"),
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def test_every_photo_of_a_zip_has_one_result(tmp_path: Path, shared_data: Path) -> None:
    photos = _photos(shared_data)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in photos.items():
            archive.writestr(name, data)
        archive.writestr("notes.txt", "no photo")
    serve = Serve(
        DEFAULT_CHECKPOINT,
        tmp_path / "data",
        tmp_path / "log",
        SEMICAP_JOB_CHUNK_ITEMS="128",
        SEMICAP_JOB_SAVE_S="3",
    )
    try:
        wait_for(serve.answers, "the service does not answer")
        dataset = serve.ask("POST", "/v1/datasets", file.getvalue(), "application/zip")
        assert (dataset["items"], dataset["num_rejected"]) == (len(photos), 1)
        asked = json.dumps({"dataset": dataset["id"], "outputs": ["csv"]})
        job = serve.ask("POST", "/v1/jobs/captions", asked.encode(), "application/json")
        address = f"/v1/jobs/{job['id']}"
        wait_for(lambda: serve.ask("GET", address)["ended"] is not None, "the job does not end")
        ended = serve.ask("GET", address)
        lines = Counter(
            line["file_name"] for kind in ("results", "errors") for line in serve.lines(f"{address}/{kind}")
        )
    finally:
        serve.process.terminate()
        assert serve.process.wait(120) == 0
    print(f"\nphotos {len(photos)}, {ended['counts']}, from {ended['started']} to {ended['finished']}")
    assert lines == Counter(dict.fromkeys(photos, 1))
    assert (ended["counts"]["done"], ended["counts"]["failed"]) == (len(photos) - 1, 1)


def _photos(shared_data: Path) -> dict[str, bytes]:
    """Photos by name, the last one broken."""
    folder = shared_data / "coco-unlabeled"
    photos = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[: COUNT - 1]]
    photos.append(pictures.truncated_jpeg(pictures.cat()))
    return {f"{number % 7}/{number:05d}.jpg": data for number, data in enumerate(photos)}
