"""Memory and time of each data source at a million rows, its images missing nothing but their pixels.

Run as `python -m benchmarks.data_readers [--rows 1000000]`; each reader has a process of its own, so that its
peak is its own: what reading took beyond the process at its start.
"""

import argparse
import json
import multiprocessing
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from training.data import CaptionedImages, Images, Problems
from training.sources import read_captioned_sources, read_image_sources

CAPTIONS = [f"a dog number {number} runs through the snow with a red ball" for number in range(5)]
PER_SHARD = 10_000
Reader = Callable[[Sequence[Path], Problems], Images | CaptionedImages]


def write_folder(folder: Path, rows: int) -> Path:
    """A folder of links to one file, and a line of metadata.jsonl for each."""
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"x")
    with (folder / "metadata.jsonl").open("w") as lines:
        for row in range(rows):
            name = f"{row}.jpg"
            if row and row % 50_000:  # a file can have 65,000 names on ext4
                (folder / name).hardlink_to(folder / f"{row - row % 50_000}.jpg")
            elif row:
                (folder / name).write_bytes(b"x")
            lines.write(json.dumps({"file_name": name, "captions": CAPTIONS}) + "\n")
    return folder


def write_shards(folder: Path, rows: int) -> Path:
    """Shards of PER_SHARD images of one byte, each with its captions."""
    folder.mkdir()
    text = "\n".join(CAPTIONS).encode()
    for first in range(0, rows, PER_SHARD):
        with tarfile.open(folder / f"photos-{first // PER_SHARD:04d}.tar", "w") as shard:
            for row in range(first, min(rows, first + PER_SHARD)):
                for name, content in ((f"{row:08d}.jpg", b"x"), (f"{row:08d}.txt", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, BytesIO(content))
    return folder


def write_coco(folder: Path, photos: Path, rows: int) -> Path:
    """COCO's captions of the folder's images."""
    images = [{"id": row, "file_name": f"{row}.jpg"} for row in range(rows)]
    annotations = [{"image_id": row, "caption": caption} for row in range(rows) for caption in CAPTIONS]
    file = folder / f"captions_{photos.name}.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    return file


def measure(name: str, read: Reader, source: Path) -> None:
    """Prints one line on a reader, from a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(name, read, source))
    process.start()
    process.join()


def _report(name: str, read: Reader, source: Path) -> None:
    before, began = _memory_mb("VmHWM"), time.monotonic()
    data = read([source], Problems())
    seconds, peak = time.monotonic() - began, _memory_mb("VmHWM") - before
    images = data if isinstance(data, Images) else data.images
    rows, own = len(images), _memory_mb("RssAnon")
    chosen = np.random.default_rng(0).integers(0, rows, 10_000)
    began = time.monotonic()
    for row in chosen.tolist():
        images.files[row], images.ids[row]
    micros = (time.monotonic() - began) / len(chosen) * 1e6
    print(
        f"{name:28} {rows:>9,} rows  read in {seconds:6.1f} s  peak +{peak:6.0f} MB  "
        f"own memory after {own:6.0f} MB  {micros:5.1f} µs a random row",
        flush=True,
    )


def _memory_mb(kind: str) -> float:
    """VmHWM: the most that this process ever had. RssAnon: what is its own; mapped files can be dropped."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_folder(Path(scratch) / "photos", rows)
        shards = write_shards(Path(scratch) / "shards", rows)
        coco = write_coco(Path(scratch), folder, rows)
        measure("folder, unlabelled", read_image_sources, folder)
        measure("folder + metadata.jsonl", read_captioned_sources, folder)
        measure("shards, unlabelled", read_image_sources, shards)
        measure("shards with captions", read_captioned_sources, shards)
        measure("COCO captions (one JSON)", read_captioned_sources, coco)


if __name__ == "__main__":
    main()
