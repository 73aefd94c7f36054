"""Eight little photos with captions, and the folders a training step works in."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_checkpoint
from training.config import Places

SCENES = {
    "red.png": ((200, 30, 30), "the red dog runs"),
    "green.png": ((30, 180, 40), "the dog on the grass"),
    "white.png": ((245, 245, 245), "the cat in the snow"),
    "blue.png": ((20, 60, 200), "the man in the water"),
    "black.png": ((10, 10, 10), "the cat runs"),
    "pink.png": ((230, 130, 160), "the red ball on the snow"),
    "brown.png": ((120, 80, 30), "the man on the grass"),
    "grey.png": ((128, 128, 128), "the dog in the water"),
}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A data root with labelled "photos"; a checkpoint among the runs at "start/checkpoint"."""
    write_scenes(tmp_path / "data" / "photos")
    tiny_checkpoint(tmp_path / "runs" / "start")
    return Places(data=tmp_path / "data", out=tmp_path / "runs" / "run")


def write_scenes(folder: Path) -> None:
    """The eight pictures, with the colour's name as the only difference that a caption could tell."""
    folder.mkdir(parents=True)
    lines = []
    for number, (name, (colour, caption)) in enumerate(SCENES.items()):
        picture = Image.new("RGB", (40, 40), colour)
        picture.paste((255 - 20 * number, 20 * number, 128), (4 * number, 4, 4 * number + 8, 30))
        picture.save(folder / name)
        lines.append(json.dumps({"file_name": name, "captions": [caption, f"{caption} ."]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
