"""Writes that the kernel refuses: named in one line, and what was there before stays."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from training.disk import WriteError, clear_leftovers, drop_folder, new_folder, replace_text, writing

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


def test_writers_at_once_leave_a_whole_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "problems.json"
    program = "import sys; from pathlib import Path; from training.disk import replace_text\n"
    program += "for _ in range(200): replace_text(Path(sys.argv[1]), 'x' * 5000)"
    command = [sys.executable, "-c", program, str(path)]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate(timeout=240)[1] for writer in writers]
    assert errors == ["", "", ""]
    assert path.read_text() == "x" * 5000
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_writers_are_cleared_be_they_files_or_folders(tmp_path: Path) -> None:
    with new_folder(tmp_path / "state") as scratch:
        folder_name = scratch.name
    (tmp_path / folder_name).mkdir()
    (tmp_path / ".writing-17-log.jsonl").write_text("half")
    (tmp_path / ".model-abc").mkdir()
    clear_leftovers(tmp_path, ".model-*")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def _some_text(path: Path) -> Path:
    path.write_text("new")
    return path
