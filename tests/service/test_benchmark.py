"""`semicap bench` on the tiny model."""

import json
import sys
from pathlib import Path

import pytest

from models.packing import can_pack
from service.cli import main


def bench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["semicap", "bench", "--seconds", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_figures_name_the_formats_that_this_machine_runs_and_the_engines_choice(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMICAP_PRECISION", "fp32")
    status, out, _ = bench(capsys, monkeypatch, "--checkpoint", str(tiny_checkpoint), "--json")
    assert status == 0
    report = json.loads(out)
    names = {"fp32": "fp32 packed", "bf16": "bf16", "int8": "int8"}
    runnable = {"fp32"} | {name for format, name in names.items() if can_pack(format)}  # type: ignore[arg-type]
    assert set(report["format_seconds"]) == runnable
    assert report["chosen"] == "fp32"
    end_to_end = report["end_to_end"]
    assert end_to_end["images"] > 0
    assert end_to_end["images_per_s"] == pytest.approx(end_to_end["images"] / end_to_end["seconds"])
    assert set(end_to_end["stage_seconds"]) == {"encode", "prefill", "decode", "score"}


def test_table_ends_with_the_images_per_second_of_the_photos_given(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = bench(capsys, monkeypatch, str(tmp_path / "none"))
    assert (status, "none" in err) == (2, True)
    status, out, _ = bench(capsys, monkeypatch, "--checkpoint", str(tiny_checkpoint))
    assert status == 0
    assert "images/s from JPEG to scored caption" in " ".join(out.split())
