"""Writes that the kernel refuses: named in one line, and what was there before stays."""

import shutil
from pathlib import Path

import pytest

from training.disk import WriteError, drop_folder, new_folder, replace_text, writing

FULL = Path("/dev/full")

needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@needs_full_device
def test_failed_write_names_the_place_the_reason_and_the_space_left(tmp_path: Path) -> None:
    expected = r"log\.jsonl could not be written: No space left on device \(\d+\.\d MB are free there\)$"
    with pytest.raises(WriteError, match=expected), writing(tmp_path / "log.jsonl"):
        FULL.write_text("x")


@needs_full_device
def test_folder_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "state"
    with new_folder(final) as scratch:
        (scratch / "weights").write_text("old")
    with pytest.raises(WriteError, match="state could not be written"), new_folder(final) as scratch:
        shutil.copyfile(_some_text(scratch / "weights"), FULL)
    assert (final / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_folder_and_text_are_replaced_and_dropped_whole(tmp_path: Path) -> None:
    final = tmp_path / "state"
    for text in ("old", "new"):
        with new_folder(final) as scratch:
            (scratch / "weights").write_text(text)
        replace_text(final / "counters", text)
    assert {path.name: path.read_text() for path in final.iterdir()} == {"weights": "new", "counters": "new"}
    drop_folder(final)
    assert list(tmp_path.iterdir()) == []


def test_text_in_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"a\.json could not be written: No such file or directory"):
        replace_text(tmp_path / "gone" / "a.json", "x")


def _some_text(path: Path) -> Path:
    path.write_text("new")
    return path
