"""Each kind of data source on real photos, with every fault that it can have."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from models.clip import ClipEncoder
from tests.tiny import tiny_clip
from training.data import DataError, Problems
from training.features import cached_features
from training.pixels import read_pixels
from training.sources import read_captioned_sources, read_image_sources

PHOTOS: dict[str, Any] = {"cat": skimage.data.chelsea, "cup": skimage.data.coffee, "man": skimage.data.camera}


@pytest.fixture(scope="module")
def jpegs() -> dict[str, bytes]:
    """Photos free of rights as JPEG files."""
    encoded = {}
    for name, photo in PHOTOS.items():
        buffer = io.BytesIO()
        Image.fromarray(photo()).save(buffer, "JPEG")
        encoded[name] = buffer.getvalue()
    return encoded


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_photos(folder: Path, jpegs: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in jpegs.items():
        (folder / f"{name}.jpg").write_bytes(content)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def wheres(problems: Problems) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in problems.items:
        found.setdefault(item.kind, []).append(item.where)
    return found


COCO = {
    "images": [
        {"id": 1, "file_name": "cat.jpg"},
        {"id": 2, "file_name": "gone.jpg"},
        {"id": 3, "file_name": "cup.jpg"},
        {"id": 4, "file_name": "man.jpg"},
        {"id": 5, "file_name": "cat.jpg"},
    ],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": "a  cat"},
        {"id": 11, "image_id": 4, "caption": "a man"},
        {"id": 12, "image_id": 1, "caption": "its face"},
        {"id": 13, "image_id": 9, "caption": "nothing"},
        {"id": 14, "image_id": 4, "caption": " "},
        {"id": 15, "image_id": 2, "caption": "gone"},
        {"id": 16, "image_id": 5, "caption": "again"},
    ],
}


@pytest.mark.parametrize("photos", ["train2014", "images", "annotations", "annotations/images"])
def test_coco_captions_find_their_photos_and_name_every_fault(
    tmp_path: Path, jpegs: dict[str, bytes], photos: str
) -> None:
    write_photos(tmp_path / photos, jpegs)
    file = write_json(tmp_path / "annotations" / "captions_train2014.json", COCO)
    problems = Problems()
    captioned = read_captioned_sources([file], problems)
    assert captioned.images.ids == ("cat.jpg", "man.jpg")
    assert captioned.captions == (("a cat", "its face"), ("a man",))
    assert captioned.images.files[1].read_bytes() == jpegs["man"]
    assert wheres(problems) == {
        "caption without image": [f"{file} annotations[3] image_id 9"],
        "empty caption": [f"{file} annotations[4] caption 1"],
        "missing image": [f"{file} images[1] gone.jpg"],
        "no captions": [f"{file} images[2] cup.jpg"],
        "duplicated image": [f"{file} images[4] cat.jpg"],
    }


def karpathy(tmp_path: Path, jpegs: dict[str, bytes]) -> Path:
    write_photos(tmp_path / "val2014", jpegs)
    images = [
        {"filepath": "val2014", "filename": f"{name}.jpg", "split": split, "sentences": [{"raw": name}]}
        for name, split in [("cat", "train"), ("cup", "test"), ("man", "restval"), ("gone", "train")]
    ]
    return write_json(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})


def test_karpathy_file_gives_the_splits_that_are_named(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    file, problems = karpathy(tmp_path, jpegs), Problems()
    captioned = read_captioned_sources([Path(f"{file}#train+restval")], problems)
    assert captioned.images.ids == ("val2014/cat.jpg", "val2014/man.jpg")
    assert captioned.captions == (("cat",), ("man",))
    assert wheres(problems) == {"missing image": [f"{file} images[3] val2014/gone.jpg"]}
    assert read_image_sources([Path(f"{file}#test")], Problems()).ids == ("val2014/cup.jpg",)


@pytest.mark.parametrize("split", ["", "#training", "#train+nope"])
def test_split_that_is_wrong_or_left_out_names_those_there_are(
    tmp_path: Path, jpegs: dict[str, bytes], split: str
) -> None:
    file = karpathy(tmp_path, jpegs)
    with pytest.raises(DataError, match=r"dataset_coco\.json.*train \(2\), test \(1\), restval \(1\)"):
        read_captioned_sources([Path(f"{file}{split}")], Problems())


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        ('{"images": [}', "", "captions.json:1 is not JSON"),
        ("[]", "", "no list `images`"),
        ('{"images": [1]}', "", "no list `images`"),
        ('{"images": []}', "", r"captions.json: annotations must be a list of objects"),
        ('{"images": [{"id": 1}], "annotations": []}', "", r"images\[0\]: file_name is None"),
        (json.dumps(COCO), "", "none of the first 5 images .* is in "),
        (json.dumps(COCO), "#train", "has no splits, so #train names none"),
    ],
)
def test_wrong_caption_file_is_one_message_with_its_place(
    tmp_path: Path, content: str, split: str, message: str
) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_captioned_sources([tmp_path / f"captions.json{split}"], Problems())


def test_missing_caption_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json cannot be read: No such file"):
        read_captioned_sources([tmp_path / "none.json"], Problems())


def test_shards_give_photos_and_captions_and_name_every_fault(
    tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    first = write_tar(
        tmp_path / "shards" / "p-000.tar",
        {
            "cat.jpg": jpegs["cat"],
            "cat.txt": b"a cat\nits  face\n",
            "alone.txt": b"no photo",
            "cup.jpg": jpegs["cup"],
            "man.jpg": jpegs["man"],
            "man.json": b'{"caption": "a man"}',
            "man.seg.png": b"another kind of file",
            "x/cat.json": b'{"captions": ["other"]}',
            "x/cat.jpg": jpegs["cat"],
            "bad.jpg": jpegs["cat"],
            "bad.json": b"{",
        },
    )
    second = write_tar(tmp_path / "shards" / "p-001.tar", {"cat.jpg": jpegs["cat"], "cat.txt": b"cat"})
    problems = Problems()
    captioned = read_captioned_sources([tmp_path / "shards"], problems)
    assert captioned.images.ids == ("p-000/cat", "p-000/man", "p-000/x/cat", "p-001/cat")
    assert captioned.captions == (("a cat", "its face"), ("a man",), ("other",), ("cat",))
    assert [file.read_bytes() for file in captioned.images.files] == [
        jpegs["cat"],
        jpegs["man"],
        jpegs["cat"],
        jpegs["cat"],
    ]
    assert str(captioned.images.files[3]) == f"{second}: cat.jpg"
    found = wheres(problems)
    assert found.keys() == {"caption without image", "no captions", "unreadable caption"}
    assert found["caption without image"] == [f"{first}: alone"]
    assert found["no captions"] == [f"{first}: cup", f"{first}: bad"]
    assert found["unreadable caption"][0].startswith(f"{first}: bad: Expecting property name")
    assert len(read_image_sources([tmp_path / "shards"], Problems())) == 6


def test_names_with_dots_are_webdataset_s_and_none_is_left_out_in_silence(
    tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    members = {
        "cat.JPG": jpegs["cat"],
        "cat.TXT": b"a cat",
        "cat.mask.png": b"another kind of file",
        "2024.07.03.jpg": jpegs["cup"],
        "2024.07.04.jpg": jpegs["man"],
    }
    shard = write_tar(tmp_path / "p.tar", members)
    for read in (read_captioned_sources, read_image_sources):
        problems = Problems()
        assert len(read([shard], problems)) == 1
        assert wheres(problems) == {
            "dots in a name": [f"{shard}: 2024.07.03.jpg", f"{shard}: 2024.07.04.jpg"]
        }
    assert read_captioned_sources([shard], Problems()).captions == (("a cat",),)


def test_a_range_names_its_shards(tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    for number in (8, 9, 10, 11):
        write_tar(tmp_path / f"p-{number:03d}.tar", {"cat.jpg": jpegs["cat"]})
    images = read_image_sources([tmp_path / "p-{009..011}.tar"], Problems())
    assert images.ids == ("p-009/cat", "p-010/cat", "p-011/cat")
    assert read_image_sources([tmp_path / "p-008.tar"], Problems()).ids == ("p-008/cat",)
    with pytest.raises(DataError, match=r"2 of 6 shards are missing, first .*p-006\.tar"):
        read_image_sources([tmp_path / "p-{006..011}.tar"], Problems())


def test_damaged_shards_give_what_is_whole(
    tmp_path: Path, jpegs: dict[str, bytes], clip: ClipEncoder
) -> None:
    whole = write_tar(tmp_path / "a.tar", {"cat.jpg": jpegs["cat"], "man.jpg": jpegs["man"]})
    content = whole.read_bytes()
    whole.write_bytes(content[: content.index(jpegs["man"]) + len(jpegs["man"]) // 2])
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"no tar file" * 100)
    write_tar(tmp_path / "d.tar", {"cup.jpg": jpegs["cup"]})
    problems = Problems()
    images = read_image_sources([tmp_path], problems)
    assert problems.counts() == {"broken shard": 3}
    assert [where.split(":")[0] for where in wheres(problems)["broken shard"]] == [
        str(tmp_path / f"{name}.tar") for name in "abc"
    ]
    store, readable = cached_features(
        images,
        clip,
        views=("original",),
        cache=tmp_path / "cache",
        workers=2,
        problems=problems,
    )
    assert [images.ids[row] for row in readable] == ["a/cat", "d/cup"]
    assert len(store) == 2
    assert wheres(problems)["unreadable image"][0].startswith(f"{tmp_path / 'a.tar'}: man.jpg: OSError")


def test_shards_without_a_photo_are_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"notes.txt": b"x"})
    with pytest.raises(DataError, match=r"a\.tar and 0 more shards have no usable image"):
        read_image_sources([tmp_path], Problems())


def test_sources_of_one_name_give_ids_that_no_two_photos_share(
    tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    folders = [tmp_path / name for name in ("a/train", "b/train", "c/train-2", "d/p-{0..1}")]
    for folder in folders:
        write_photos(folder, {"cat": jpegs["cat"]})
    images = read_image_sources([*folders, folders[0]], Problems())
    assert images.ids == (
        "train/cat.jpg",
        "train-2/cat.jpg",
        "train-2-2/cat.jpg",
        "p-{0..1}/cat.jpg",
        "train-3/cat.jpg",
    )


def test_the_same_photo_is_the_same_from_every_source(
    tmp_path: Path, jpegs: dict[str, bytes], clip: ClipEncoder
) -> None:
    write_photos(tmp_path / "photos", jpegs)
    write_tar(tmp_path / "shards" / "a.tar", {f"{name}.jpg": content for name, content in jpegs.items()})
    both = read_image_sources([tmp_path / "photos", tmp_path / "shards"], Problems())
    assert both.ids[0] == "photos/cat.jpg"
    assert both.ids[3] == "shards/a/cat"
    for row in range(3):
        ours, theirs = (read_pixels(both.files[at], clip.preprocess) for at in (row, row + 3))
        assert np.array_equal(ours, theirs)
