"""Data sets with every fault a person can make."""

import json
from pathlib import Path

import pytest
from PIL import Image

from service.offline.photo_files import find_photos
from training.data import (
    DataError,
    Problem,
    Problems,
    read_texts,
    sample_rows,
)
from training.folders import read_captioned_images, read_images
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
        {"file_name": "./a.png", "captions": ["again"]},
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
    metadata = tmp_path / "metadata.jsonl"
    assert [line.strip() for line in problems.lines() if str(metadata) in line] == [
        f"empty caption: {metadata}:1 caption 2",
        f"missing image: {metadata}:2 gone.png",
        f"duplicated image: {metadata}:3 a.png",
        f"empty caption: {metadata}:4 caption 1",
        f"no captions: {metadata}:4 b.png",
    ]


def test_a_problem_met_twice_counts_once(tmp_path: Path) -> None:
    _folder(tmp_path, {"file_name": "a.png", "captions": ["one", ""]})
    problems = Problems()
    for _ in range(2):
        read_captioned_images(tmp_path, problems)
    assert problems.counts() == {"empty caption": 1}


def test_captions_keep_their_file_and_line_through_selection_and_joining(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _folder(tmp_path / name, {"file_name": "a.png", "text": "x"}, {"file_name": "b.png", "text": "x"})
    captioned = read_captioned_sources([tmp_path / "x", tmp_path / "y"], Problems()).select([1, 2])
    assert captioned.where(0) == f"{tmp_path / 'x' / 'metadata.jsonl'}:2 x/b.png"
    assert captioned.where(1) == f"{tmp_path / 'y' / 'metadata.jsonl'}:1 y/a.png"


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


def test_other_encodings_are_named_and_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    _folder(tmp_path)
    record = '{"file_name": "a.png", "text": "caf\u00e9"}'
    (tmp_path / "metadata.jsonl").write_bytes(record.encode("utf-8-sig"))
    assert read_captioned_images(tmp_path, Problems()).captions == (("caf\u00e9",),)
    (tmp_path / "metadata.jsonl").write_bytes(record.encode("latin-1"))
    with pytest.raises(DataError, match=r"metadata\.jsonl:1 is not UTF-8 \(byte 36 of the line\)"):
        read_captioned_images(tmp_path, Problems())


def test_caption_that_holds_half_a_character_is_left_out_and_named(tmp_path: Path) -> None:
    captions = ["one", "half \ud83d", "whole \U0001f436"]
    _folder(tmp_path, {"file_name": "a.png", "captions": captions})
    problems = Problems()
    assert read_captioned_images(tmp_path, problems).captions == (("one", "whole \U0001f436"),)
    where = f"{tmp_path / 'metadata.jsonl'}:1 caption 2: it holds half a character"
    assert problems.items == [Problem("unreadable caption", where)]


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


def test_photos_are_known_by_the_names_that_semicap_caption_knows(tmp_path: Path) -> None:
    ids = ("a.avif", "b.JFIF", "c.heic")
    for name in ("a.avif", "b.JFIF", "c.heic", "._d.jpg", ".thumbnails/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert read_images(tmp_path, Problems()).ids == ids
    assert tuple(path.name for path in find_photos([str(tmp_path)])) == ids


def test_folders_with_the_same_file_names_stay_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _folder(tmp_path / name, {"file_name": "a.png", "captions": [name]})
    folders = [tmp_path / "x", tmp_path / "y"]
    assert read_captioned_sources(folders, Problems()).images.ids == ("x/a.png", "y/a.png")
    assert read_image_sources(folders, Problems()).ids == ("x/a.png", "x/b.png", "y/a.png", "y/b.png")


def test_text_corpus_drops_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a dog"}\n{"text": " "}\n\n{"text": "a cat"}\n')
    problems = Problems()
    corpus = read_texts([tmp_path / "t.jsonl"], problems)
    assert corpus.texts == ("a dog", "a cat")
    assert [source.rpartition(":")[2] for source in corpus.sources] == ["1", "4"]
    assert problems.items[0].where.endswith("t.jsonl:2 caption 1")


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
