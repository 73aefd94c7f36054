"""Every snippet of docs/works-with.md does what the page says."""

import gc
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from service.api.adapters.client_options import PASTE_OPTIONS
from tests.clients.test_photoprism import OLLAMA_BODY
from tests.service.clients import CAT, encoded
from tests.service.server_events import events_of

PAGE = Path(__file__).parents[2] / "docs" / "works-with.md"
ADDRESS = "http://127.0.0.1:8000"
WAIT_S = 60


def snippets(language: str) -> list[str]:
    """The page's, with the name of the model that the tests serve."""
    page = PAGE.read_text().replace("semicap-small", "tiny")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `photo.jpg` lies."""
    (tmp_path / "photo.jpg").write_bytes(CAT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def caption(address: str) -> str:
    """What our own API says of the photo, asked for what other clients get."""
    options = {**PASTE_OPTIONS, "max_chars": 125}
    answer = httpx2.post(
        f"{address}/v1/captions", json={"images": [{"data": encoded()}], "options": options}, timeout=WAIT_S
    )
    text: str = answer.json()["results"][0]["captions"][0]["text"]
    return text


def test_page_has_a_snippet_for_each() -> None:
    assert (len(snippets("python")), len(snippets("yaml")), len(snippets("sh"))) == (3, 1, 3)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("snippet", snippets("python"), ids=["openai", "ollama", "huggingface"])
def test_a_clients_snippet_prints_the_caption(snippet: str, address: str, folder: Path, caption: str) -> None:
    printed: list[str] = []
    names = {"print": printed.append}
    exec(compile(snippet.replace(ADDRESS, address), "snippet", "exec"), names)
    assert printed == [caption]
    names.clear()
    gc.collect()  # now, while it is no error that a snippet leaves its client open


def test_photoprisms_model_points_to_the_caption(address: str, caption: str) -> None:
    (model,) = yaml.safe_load(snippets("yaml")[0])["Models"]
    uri = model["Service"]["Uri"].replace(ADDRESS, address)
    answer = httpx2.post(uri, json=OLLAMA_BODY | {"model": model["Model"]}, timeout=WAIT_S)
    assert answer.json()["response"] == caption


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("snippet", snippets("sh"), ids=["captions", "stream", "scores"])
def test_curl_gets_an_answer(snippet: str, address: str, folder: Path) -> None:
    command = snippet.replace(ADDRESS, address)
    done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True, timeout=WAIT_S)
    answer: Any = events_of(done.stdout)[-1][1] if "stream" in snippet else json.loads(done.stdout)
    (result,) = answer["results"]
    assert result["captions"] if "scores" not in snippet else len(result["scores"]) == 2
