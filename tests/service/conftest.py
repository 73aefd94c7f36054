"""The real application around a tiny real model."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.dependencies import Parts
from service.cli import main
from service.registry import ServedModel
from service.settings import Settings

MakeClient = Callable[..., TestClient]
Semicap = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def make_client(tiny_model: ServedModel) -> Iterator[MakeClient]:
    """Starts an application with the given settings; it stops at the end of the session."""
    with ExitStack() as stack:

        def make(**settings: Any) -> TestClient:
            chosen = Settings(**{"precision": "fp32", **settings})  # tests reach into the model's parts
            return stack.enter_context(TestClient(create_app(chosen, tiny_model)))

        yield make


@pytest.fixture(scope="session")
def client(make_client: MakeClient) -> TestClient:
    """One application with the default settings for all tests that leave it as it was."""
    return make_client()


@pytest.fixture
def semicap(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Semicap:
    """Runs a command line in this process; exit status, standard output, standard error."""
    monkeypatch.setenv("SEMICAP_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semicap", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def parts_of(client: TestClient) -> Parts:
    """The parts of the application behind a client."""
    return cast(Parts, client.app_state["parts"])


def captions_scope(client: TestClient) -> dict[str, Any]:
    """What an ASGI server hands over for POST /v1/captions with a JPEG as its body."""
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/captions",
        "query_string": b"",
        "headers": [(b"content-type", b"image/jpeg")],
        "state": dict(client.app_state),
    }
