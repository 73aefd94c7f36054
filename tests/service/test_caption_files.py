"""`semicap caption`: every output can be gone on with, a bad file costs only itself, no text is lost."""

import errno
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine.options import CaptionOptions
from service.offline.command import CaptionCommand
from service.offline.outputs import HumanLines, JsonLinesFile, LostOutputError, OutputError, Sidecars, shown
from service.offline.photo_files import NoSuchPhotoError, find_photos
from service.settings import Settings
from tests.service import pictures

GREEDY = CaptionOptions(strategy="greedy")


@pytest.fixture
def settings(tiny_checkpoint: Path) -> Settings:
    return Settings(checkpoint=tiny_checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photos, one of them in a subfolder."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index, photo in enumerate(pictures.photos(4)):
        (tmp_path / "photos" / f"{index}.jpg").write_bytes(photo)
    (tmp_path / "photos" / "more" / "4.PNG").write_bytes(pictures.encoded(pictures.cat(), "PNG"))
    return tmp_path / "photos"


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_folder_is_captioned_to_readable_lines(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CaptionCommand((str(folder),), GREEDY).run(settings) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 5
    assert "CLIPScore" in captured.out
    assert "captioned 5" in captured.err


def test_json_lines_name_file_captions_and_model(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        CaptionCommand((str(folder / "0.jpg"),), CaptionOptions(num_captions=2), prints_json=True).run(
            settings
        )
        == 0
    )
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record["file_name"] == str(folder / "0.jpg")
    assert len(record["captions"]) == 2
    assert record["model"]["name"] == "tiny"
    assert record["image"]["format"] == "JPEG"
    assert record["date"].endswith("+00:00")


def test_second_run_does_only_what_is_left(
    folder: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "captions.jsonl"
    first = CaptionCommand((str(folder / "0.jpg"), str(folder / "1.jpg")), GREEDY, output=output)
    assert first.run(settings) == 0
    before = output.read_text()
    assert CaptionCommand((str(folder),), GREEDY, output=output).run(settings) == 0
    assert "captioned 3, already done 2" in capsys.readouterr().err
    assert output.read_text().startswith(before)
    assert len({line["file_name"] for line in lines(output)}) == len(lines(output)) == 5

    no_model = settings.model_copy(update={"checkpoint": Path("none")})
    assert CaptionCommand((str(folder),), GREEDY, output=output).run(no_model) == 0, "it loads none"
    assert "captioned 0, already done 5" in capsys.readouterr().err


def test_torn_last_line_is_healed(folder: Path, settings: Settings, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    command = CaptionCommand((str(folder),), GREEDY, output=output)
    command.run(settings)
    whole = {str(line["file_name"]): line["captions"] for line in lines(output)}
    output.write_text(output.read_text()[:-30])
    assert command.run(settings) == 0
    assert {str(line["file_name"]): line["captions"] for line in lines(output)} == whole


def test_whole_last_line_without_its_end_is_kept(folder: Path, settings: Settings, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    CaptionCommand((str(folder / "0.jpg"),), GREEDY, output=output).run(settings)
    before = output.read_text()
    output.write_text(before.removesuffix("\n"))
    assert CaptionCommand((str(folder / "1.jpg"),), GREEDY, output=output).run(settings) == 0
    assert output.read_text().startswith(before)
    assert len(lines(output)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"dear diary\n",
        b"one line without an end",
        b'{"file_name": "a.jpg", "captions": []}\nand one without an end',
        b'{"file_name": "a.jpg", "text": "my own words"}\n',
        b'{"file_name": "a.jpg", "text": "my own words"}',
        b'{"captions": [], "file_name": "a.jpg',
        b"[" * 100_000,
        b"\xff\xd8\xff\xe0\n\x00\xff",
        b"\n",
    ],
)
def test_output_that_is_something_else_is_refused_and_left_as_it_is(
    content: bytes, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    output = tmp_path / "notes.jsonl"
    output.write_bytes(content)
    with pytest.raises(
        OutputError, match=r"line \d of .*notes.jsonl is not a caption record.* left as it is"
    ):
        CaptionCommand((str(folder),), GREEDY, output=output).run(settings)
    assert output.read_bytes() == content


def test_only_what_can_be_the_beginning_of_a_record_is_cut(tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    for torn in (b"{", b'{"file_name": ', b'{"file_name": "a.j', b'{"file_name": "\xc3'):
        output.write_bytes(b'{"file_name": "0.jpg", "captions": []}\n' + torn)
        JsonLinesFile(output).close()
        assert output.read_bytes() == b'{"file_name": "0.jpg", "captions": []}\n'


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\r"])
def test_name_with_a_line_separator_is_found_again(separator: str, tmp_path: Path) -> None:
    output, photo = tmp_path / "captions.jsonl", Path(f"a{separator}b.jpg")
    written = JsonLinesFile(output)
    written.write(photo, {"file_name": str(photo), "captions": []})
    written.close()
    again = JsonLinesFile(output)
    assert again.has(photo)
    again.close()


def test_name_that_is_not_utf8_fails_alone_where_text_must_hold_it(
    folder: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "0.jpg", named(folder, b"a\xff.jpg"))
    output = tmp_path / "captions.jsonl"
    for done in (5, 0):
        assert CaptionCommand((str(folder),), GREEDY, output=output).run(settings) == 1
        captured = capsys.readouterr().err
        assert "a\\xff.jpg: its path is not text in UTF-8; rename it" in captured
        assert f"captioned {done}, already done {5 - done}, failed 1" in captured
    assert len(lines(output)) == 5


def test_name_that_is_not_utf8_is_captioned_beside_the_photo_and_in_the_terminal(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "0.jpg", named(folder, b"a\xff.jpg"))
    assert CaptionCommand((str(folder),), GREEDY).run(settings) == 0
    assert "a\\xff.jpg  " in capsys.readouterr().out
    assert CaptionCommand((str(folder),), GREEDY, writes_sidecars=True).run(settings) == 0
    assert named(folder, b"a\xff.txt").read_text().strip()


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    HumanLines(terminal).write(
        Path("\u96ea.jpg"), {"captions": [{"text": "snow \u2014 much", "clip_score": 0.5}]}
    )
    assert terminal.buffer.getvalue() == b"\\u96ea.jpg  snow \\u2014 much  (CLIPScore 0.500)\n"


def test_sidecars_are_written_and_a_human_text_is_kept(folder: Path, settings: Settings) -> None:
    (folder / "1.txt").write_text("my own words")
    assert CaptionCommand((str(folder),), GREEDY, writes_sidecars=True).run(settings) == 0
    assert (folder / "1.txt").read_text() == "my own words"
    assert (folder / "0.txt").read_text().strip()
    assert (folder / "more" / "4.txt").exists()
    assert sorted(path.name for path in folder.iterdir() if path.suffix not in {".jpg", ".txt"}) == ["more"]


def test_overwrite_replaces_sidecars(folder: Path, settings: Settings) -> None:
    (folder / "1.txt").write_text("my own words")
    CaptionCommand((str(folder),), GREEDY, writes_sidecars=True, overwrites=True).run(settings)
    assert (folder / "1.txt").read_text() != "my own words"


def test_photo_that_is_named_as_its_sidecar_is_kept(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = (folder / "0.jpg").rename(folder / "0.txt")
    before = photo.read_bytes()
    command = CaptionCommand((str(photo),), GREEDY, writes_sidecars=True, overwrites=True)
    assert command.run(settings) == 1
    assert "0.txt: its sidecar would be the photo itself" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_sidecar_that_cannot_be_written_costs_its_photo_and_leaves_nothing(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.txt").mkdir()
    assert CaptionCommand((str(folder),), GREEDY, writes_sidecars=True, overwrites=True).run(settings) == 1
    assert "0.jpg: 0.txt cannot be written: Is a directory" in capsys.readouterr().err
    assert not list(folder.glob(".0*"))
    assert (folder / "1.txt").read_text().strip()


@pytest.mark.parametrize("name", [".", "photos/0.jpg/x.jsonl"])
def test_output_that_cannot_be_written_is_said_before_anything_is_done(
    name: str, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=r"cannot be written .*name another --output"):
        CaptionCommand((str(folder),), GREEDY, output=tmp_path / name).run(settings)


def test_reader_who_goes_away_ends_the_run(folder: Path, settings: Settings) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    with open(writable, "w") as stream, pytest.MonkeyPatch.context() as patch:  # noqa: PTH123
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError):
            CaptionCommand((str(folder),), GREEDY, prints_json=True).run(settings)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writable)


def test_two_outputs_are_completed_each_for_itself(folder: Path, settings: Settings, tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    CaptionCommand((str(folder),), GREEDY, output=output).run(settings)
    (folder / "2.txt").write_text("kept")
    assert CaptionCommand((str(folder),), GREEDY, output=output, writes_sidecars=True).run(settings) == 0
    assert len(lines(output)) == 5
    assert (folder / "0.txt").read_text().strip()
    assert (folder / "2.txt").read_text() == "kept"


def test_photos_that_would_share_a_sidecar_are_reported(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.png").write_bytes(pictures.encoded(pictures.cat(), "PNG"))
    assert CaptionCommand((str(folder),), GREEDY, writes_sidecars=True).run(settings) == 1
    assert "0.png: its sidecar would be that of" in capsys.readouterr().err


def test_bad_files_are_reported_counted_and_tried_again(
    folder: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "captions.jsonl"
    (folder / "bad.jpg").write_bytes(pictures.truncated_jpeg(pictures.cat()))
    (folder / "text.png").write_text("not a picture")
    command = CaptionCommand((str(folder),), GREEDY, output=output)
    for done in (5, 0):
        assert command.run(settings) == 1
        captured = capsys.readouterr().err
        assert "bad.jpg: the JPEG image is truncated" in captured
        assert "text.png: the file is none of the formats" in captured
        assert f"captioned {done}" in captured
        assert "failed 2" in captured
    assert len(lines(output)) == 5


def test_paths_are_found_once_and_in_order(folder: Path) -> None:
    names = [path.name for path in find_photos([str(folder), str(folder / "0.jpg"), str(folder / "*.jpg")])]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.PNG"]
    assert [path.name for path in find_photos([str(folder / "**" / "*.PNG")])] == ["4.PNG"]


def test_folder_leaves_out_hidden_files_and_other_kinds(folder: Path) -> None:
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "0.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert len(find_photos([str(folder)])) == 5


def test_path_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchPhotoError, match="nowhere"):
        find_photos([str(tmp_path / "nowhere")])


@pytest.mark.slow
@pytest.mark.timeout(300)  # the start of a process that imports torch
def test_captions_on_a_terminal_stand_above_the_bar(tiny_checkpoint: Path, folder: Path) -> None:
    (folder / "1.jpg").rename(folder / ":cat: [red].jpg")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "service.cli", "caption", str(folder), "--strategy", "greedy"]
    with subprocess.Popen(
        [*command, "--checkpoint", str(tiny_checkpoint)],
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    ):
        os.close(terminal)
        seen = b"".join(iter(lambda: _read_some(controller), b"")).decode(errors="replace")
    os.close(controller)
    captions = [line for line in seen.split("\r\n") if "(CLIPScore" in line]
    assert len(captions) == 5
    assert all(line.split("\x1b[2K")[-1].startswith(str(folder)) for line in captions)
    assert ":cat: [red].jpg" in seen


def _read_some(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


FULL_DISK = Path("/dev/full")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no /dev/full")
def test_full_disk_ends_the_run_instead_of_failing_every_photo(
    folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LostOutputError, match=r"No space left on device.*; the same command goes on"):
        CaptionCommand((str(folder),), GREEDY, output=FULL_DISK).run(settings)
    assert capsys.readouterr().err == ""


def test_full_disk_of_sidecars_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(LostOutputError, match=r"a\.txt cannot be written: No space left on device; the same"):
        Sidecars().write(tmp_path / "a.jpg", {"captions": [{"text": "A cat."}]})


def test_file_that_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    first = JsonLinesFile(path)
    path.write_text('{"file_name": "half a line')
    with pytest.raises(OutputError, match="another run is writing"):
        JsonLinesFile(path)
    assert path.read_text() == '{"file_name": "half a line'
    first.close()
    JsonLinesFile(path).close()
    assert path.read_text() == ""


def test_name_with_control_characters_is_one_line_without_effect_on_the_terminal() -> None:
    assert shown(Path("a\nb\x1b[2J\u2028é ü.jpg")) == r"a\nb\x1b[2J\u2028é ü.jpg"


def test_subfolder_that_cannot_be_listed_is_not_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "more":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", closed)
    names = [path.name for path in find_photos([str(folder)])]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "more"]


def test_photo_of_an_iphone_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(b"")
    assert find_photos([str(tmp_path)]) == [tmp_path / "IMG_0001.HEIC"]


def test_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchPhotoError, match=r"there is no photo in .*; photos end in .*\.jpg"):
        find_photos([str(tmp_path)])


@pytest.mark.slow
@pytest.mark.timeout(600)  # two starts of a process, each importing torch
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_run_goes_on_where_it_was(
    stop: signal.Signals, status: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for index, photo in enumerate(pictures.photos(120, edge=400)):
        (tmp_path / f"{index:03}.jpg").write_bytes(photo)
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "service.cli", "caption", str(tmp_path), "--output", str(output)]
    command += ["--checkpoint", str(tiny_checkpoint), "--strategy", "greedy"]
    with subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no other thread runs here
    ) as process:
        while not output.exists() or output.stat().st_size < 2000:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(stop)
    assert process.returncode == status
    first = output.read_bytes().count(b"\n")
    assert 0 < first < 120
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert "already done" in finished.stderr
    assert len({line["file_name"] for line in lines(output)}) == len(lines(output)) == 120


def _heed_ctrl_c() -> None:
    """A test run started in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
