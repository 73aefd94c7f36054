"""What a run prints, where the terminal takes UTF-8 alone."""

import io
import sys
from pathlib import Path

import pytest

from training.journal import Journal


def test_a_photo_s_name_that_is_not_utf8_is_printed_with_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    with Journal(tmp_path, "run", first=0, total=1) as journal:
        journal.samples(1, ["caf\udce9.png: A dog"])
    terminal.seek(0)
    assert "caf\\udce9.png: A dog" in terminal.read()
