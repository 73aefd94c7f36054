"""The command line: fast help, one flag for each option, errors in one line."""

import json
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from service.engine.options import CaptionOptions
from tests.service import pictures
from tests.service.conftest import Semicap


def test_help_lists_the_commands_without_loading_torch() -> None:
    code = (
        "import sys; sys.argv = ['semicap', '--help']; from service.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    for command in ("serve", "api", "worker", "jobs", "caption", "models", "train", "evaluate", "version"):
        assert command in finished.stdout
    assert finished.stdout.endswith("False\n")


@pytest.mark.parametrize("imported", ["typer", "service.settings", "service.offline.cli"])
def test_ctrl_c_while_the_command_is_imported_says_nothing(imported: str) -> None:
    code = (
        "import sys; sys.argv = ['semicap', 'caption', 'x']\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {imported!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "from service.cli import main; main()"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_import_that_ctrl_c_has_broken_says_nothing() -> None:
    code = (
        "import os, signal, sys; sys.argv = ['semicap', 'caption', 'x']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name != 'service.offline.cli': return None\n"
        "        try: os.kill(os.getpid(), signal.SIGINT)\n"
        "        except KeyboardInterrupt: raise KeyError('half a module')\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "from service.cli import main; main()"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("redirect", "status", "said"),
    [(">&-", 0, ""), (">/dev/full", 2, "semicap: [Errno 28] No space left on device\n")],
)
def test_standard_output_that_cannot_be_written_shows_no_traceback(
    redirect: str, status: int, said: str
) -> None:
    command = f"unset PYTHONUNBUFFERED; {shlex.quote(sys.executable)} -m service.cli version {redirect}"
    finished = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (status, said)


@pytest.mark.parametrize("group", ["jobs", "keys", "models", "train"])
def test_group_of_commands_by_itself_shows_its_help_as_it_is_laid_out(semicap: Semicap, group: str) -> None:
    status, out, err = semicap(group)
    assert (status, out) == (2, "")
    assert err.startswith(f"Usage: semicap {group}")
    assert "\nCommands:\n" in err


def test_models_of_the_store_are_listed_without_loading_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['semicap', 'models', 'list']; from service.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SEMICAP_DATA_DIR": str(tmp_path)},
    )
    assert "* semicap-small:" in finished.stdout
    assert finished.stdout.endswith("False\n")


def test_caption_has_a_flag_for_every_option(semicap: Semicap) -> None:
    _, text, _ = semicap("caption", "--help")
    assert [
        field.name for field in fields(CaptionOptions) if f"--{field.name.replace('_', '-')} " not in text
    ] == []


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("caption", "/no/such/photo.jpg"), {}, "there is no file, folder or match"),
        (("caption", "/no", "--num-beams", "99"), {}, "num_beams is 99; it must be between 1 and 16"),
        (("caption", "/", "--num-beams", "x"), {}, "--num-beams"),
        (("caption", "/", "--num-beam", "3"), {}, "--num-beams"),
        (("caption",), {}, "Missing argument"),
        (("caption", __file__, "--checkpoint", "/no/such/model"), {}, "is not a checkpoint"),
        (("caption", __file__, "--model", "other"), {}, "'other' is not the model"),
        (("caption", __file__, "--prefix", "x " * 60), {}, "it must be shorter than 12 tokens"),
        (("api",), {"SEMICAP_CHECKPOINT": "/no/such/model"}, "is not a checkpoint"),
        (("api",), {"SEMICAP_DEVICE": "abacus"}, "abacus"),
        (("worker",), {}, "set SEMICAP_REDIS_URL"),
        (("worker",), {"SEMICAP_REDIS_URL": "http://x"}, "SEMICAP_REDIS_URL"),
        (("jobs", "status", "job-1", "--url", "http://127.0.0.1:9"), {}, "does not answer"),
        (("jobs", "submit", "captions", "/no/such/folder"), {}, "there is no '/no/such/folder'"),
        (("jobs", "submit", "captions", "x" * 5000), {}, "cannot be read"),
        (("jobs", "status", "job-1"), {"SEMICAP_API_KEY": "semicap_ключ"}, "SEMICAP_API_KEY has characters"),
        (("jobs", "status", "job-1", "--url", "http://127.0.0.1:x"), {}, "is not the address of a service"),
        (("jobs", "status", "job-1", "--url", "http://a..b"), {}, "is not the address of a service"),
        (("jobs", "status", "job-1", "--url", "http://[::1"), {}, "is not the address of a service"),
        (("serve",), {"SEMICAP_PORT": "70000"}, "SEMICAP_PORT"),
        (("serve", "--host", "0.0.0.0"), {"SEMICAP_DATA_DIR": "/no/such/folder"}, "semicap keys create"),
        (("api", "--host", "0.0.0.0"), {"SEMICAP_DATA_DIR": "/no/such/folder"}, "semicap keys create"),
        (("serve",), {"SEMICAP_MAX_QUEUED_IMAGES": "3"}, "max_images_per_request (64) is above"),
        (("sing",), {}, "sing"),
        (("train", "supervised"), {}, "Missing argument 'CONFIG.toml'"),
        (("evaluate", "a", "b", "--num-beams", "0"), {}, "--num-beams"),
    ],
)
def test_error_is_one_line_that_says_what_to_do(
    semicap: Semicap,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    said: str,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.log.configure_logging", lambda **_: None)
    for name, value in {"SEMICAP_CHECKPOINT": str(tiny_checkpoint), **environment}.items():
        monkeypatch.setenv(name, value)
    status, out, err = semicap(*arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


def test_port_that_is_taken_is_one_line(
    semicap: Semicap, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.log.configure_logging", lambda **_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = semicap("serve", "--port", port, "--checkpoint", str(tiny_checkpoint))
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another" in err
    assert len(err.splitlines()) == 1


def test_data_folder_that_cannot_be_made_is_one_line(
    semicap: Semicap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.log.configure_logging", lambda **_: None)
    monkeypatch.setenv("SEMICAP_DATA_DIR", "/proc/nope")
    status, _, err = semicap("serve", "--port", "0")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "the data folder /proc/nope cannot be used (No such file or directory)" in err


def test_photo_is_captioned_from_the_command_line(
    semicap: Semicap, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "cat.png"
    photo.write_bytes(pictures.encoded(pictures.cat(), "PNG"))
    status, out, _ = semicap(
        "caption", str(photo), "--json", "--strategy", "greedy", "--checkpoint", str(tiny_checkpoint)
    )
    assert status == 0
    assert json.loads(out)["captions"][0]["text"]


def test_train_and_evaluate_are_the_training_packages_commands(semicap: Semicap) -> None:
    assert "supervised" in semicap("train", "--help")[1]
    assert "CHECKPOINT" in semicap("evaluate", "--help")[1]
