"""A report's file: whole or not there, whatever happens while it is written."""

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.training.reports import made_report
from training import disk
from training.disk import WriteError
from training.report import read_report


def test_report_that_could_not_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    old = made_report(["a dog"])
    old.write(path)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "flush", full)
    with pytest.raises(WriteError, match=r"report\.json could not be written: No space left"):
        made_report(["a cat"] * 50).write(path)
    assert read_report(path) == old
    assert list(tmp_path.iterdir()) == [path]


def test_report_is_written_into_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    report = made_report(["a dog"])
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    report.write(pipe)
    reader.join(timeout=60)
    target.write_text("old")
    link.symlink_to(target)
    report.write(link)
    assert target.read_text() == read[0]
    assert read_report(link) == report
    assert pipe.is_fifo()
    assert link.is_symlink()
