"""Data sets with every fault a person can make."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.data import (
    DataError,
    Problems,
    read_captioned_images,
    read_images,
    read_texts,
    sample_rows,
)
from training.sources import read_captioned_sources, read_image_sources


def test_captions_and_text_are_both_read(tmp_path: Path) -> None:
    _folder(
        tmp_path,
        {"file_name": "a.png", "captions": ["one", " two "]},
        {"file_name": "b.png", "text": "three"},
    )
    captioned = read_captioned_images(tmp_path, Problems())
    assert captioned.images.ids == ("a.png", "b.png")
    assert captioned.captions == (("one", "two"), ("three",))


def test_faults_are_skipped_counted_and_named(tmp_path: Path) -> None:
    _folder(
        tmp_path,
        {"file_name": "a.png", "captions": ["one", "  "]},
        {"file_name": "gone.png", "captions": ["x"]},
        {"file_name": "a.png", "captions": ["again"]},
        {"file_name": "b.png", "captions": [""]},
    )
    problems = Problems()
    captioned = read_captioned_images(tmp_path, problems)
    assert captioned.captions == (("one",),)
    assert problems.counts() == {
        "empty caption": 2,
        "missing image": 1,
        "duplicated image": 1,
        "no captions": 1,
    }
    assert f"  missing image: {tmp_path / 'metadata.jsonl'}:2 gone.png" in problems.lines()


def test_only_the_first_problems_are_shown_and_all_are_written(tmp_path: Path) -> None:
    problems = Problems()
    for number in range(30):
        problems.add("missing image", str(number))
    assert problems.lines(limit=20)[0] == "skipped 30 x missing image"
    assert "10 more" in problems.lines(limit=20)[-1]
    problems.report(tmp_path)
    assert len(json.loads((tmp_path / "data-problems.json").read_text())) == 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "metadata.jsonl:1 is not JSON"),
        ('["a"]', "metadata.jsonl:1 is list, not an object"),
        ('{"captions": ["x"]}', "metadata.jsonl:1: file_name is None"),
        ('{"file_name": "a.png", "captions": "x"}', "metadata.jsonl:1: captions must be a list of strings"),
    ],
)
def test_wrong_line_is_one_message_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_captioned_images(tmp_path, Problems())


def test_folder_without_metadata_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read: No such file"):
        read_captioned_images(tmp_path, Problems())


def test_metadata_without_any_usable_image_is_an_error(tmp_path: Path) -> None:
    _folder(tmp_path, {"file_name": "gone.png", "captions": ["x"]})
    with pytest.raises(DataError, match="names no image that exists and has a caption"):
        read_captioned_images(tmp_path, Problems())


def test_images_are_found_below_a_folder_and_empty_files_named(tmp_path: Path) -> None:
    _picture(tmp_path / "deep" / "a.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("x")
    problems = Problems()
    assert read_images(tmp_path, problems).ids == ("deep/a.png",)
    assert problems.counts() == {"unreadable image": 1}


def test_folders_with_the_same_file_names_stay_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _folder(tmp_path / name, {"file_name": "a.png", "captions": [name]})
    folders = [tmp_path / "x", tmp_path / "y"]
    assert read_captioned_sources(folders, Problems()).images.ids == ("x/a.png", "y/a.png")
    assert read_image_sources(folders, Problems()).ids == ("x/a.png", "x/b.png", "y/a.png", "y/b.png")


def test_text_corpus_drops_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a dog"}\n{"text": " "}\n\n{"text": "a cat"}\n')
    problems = Problems()
    assert read_texts([tmp_path / "t.jsonl"], problems) == ["a dog", "a cat"]
    assert problems.items[0].where.endswith("t.jsonl:2")


def test_sampled_rows_depend_on_the_seed_only() -> None:
    assert sample_rows(100, count=10, seed=1) == sample_rows(100, count=10, seed=1)
    assert sample_rows(100, count=10, seed=1) != sample_rows(100, count=10, seed=2)
    assert sample_rows(5, count=0, seed=1) == [0, 1, 2, 3, 4]


def _folder(folder: Path, *records: dict[str, object]) -> None:
    for name in ("a.png", "b.png"):
        _picture(folder / name)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
