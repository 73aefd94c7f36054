"""Data of which nothing can be used ends a step in one line, and the list of what was left out is there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import JointConfig, Places, SupervisedConfig, TokenizerConfig, UnsupervisedConfig
from training.data import PROBLEMS, DataError
from training.run import run_step
from training.toml_reader import config_from

LOOP = {"loop": {"max_steps": 1, "batch_size": 4, "device": "cpu"}}


@pytest.mark.parametrize(
    ("kind", "data", "what"),
    [
        (SupervisedConfig, {"labelled": ["damaged"]}, "data.labelled"),
        (SupervisedConfig, {"labelled": ["photos"], "validation": "damaged"}, "data.validation"),
        (UnsupervisedConfig, {"unlabelled": ["damaged"]}, "data.unlabelled"),
        (UnsupervisedConfig, {"unlabelled": ["photos"], "labelled": ["damaged"]}, "data.labelled"),
        (JointConfig, {"labelled": ["damaged"]}, "data.labelled"),
        (JointConfig, {"labelled": ["photos"], "validation": "damaged"}, "data.validation"),
    ],
)
def test_photos_that_cannot_be_read(places: Places, kind: type[Any], data: dict[str, Any], what: str) -> None:
    _copy(places.data, "damaged", photo=lambda content: content[:20])
    config = config_from(kind, {"init": "start/checkpoint", "data": {**data, "workers": 1}, **LOOP})
    with pytest.raises(DataError, match=rf"nothing of {what} can be used: 8 x unreadable image; {PROBLEMS}"):
        run_step(config, places, resume=False)
    assert {problem["kind"] for problem in _listed(places)} == {"unreadable image"}


@pytest.mark.parametrize("kind", [SupervisedConfig, JointConfig])
def test_captions_that_are_all_too_long(places: Places, kind: type[Any]) -> None:
    _copy(places.data, "long", caption=lambda text: f"{text} " * 40)
    config = config_from(kind, {"init": "start/checkpoint", "data": {"labelled": ["long"]}, **LOOP})
    with pytest.raises(DataError, match=r"nothing of data\.labelled can be used: .*caption too long"):
        run_step(config, places, resume=False)
    assert "caption too long" in {problem["kind"] for problem in _listed(places)}


def test_vocabulary_of_no_captions(places: Places) -> None:
    (places.data / "text.jsonl").write_text('{"text": ""}\n{"text": " "}\n')
    config = config_from(TokenizerConfig, {"data": {"text": ["text.jsonl"]}})
    with pytest.raises(DataError, match=r"nothing of data\.text .* 2 x empty caption"):
        run_step(config, places, resume=False)
    assert not list(places.out.glob("*.gz"))


def _copy(
    data: Path,
    name: str,
    *,
    photo: Callable[[bytes], bytes] = lambda content: content,
    caption: Callable[[str], str] = lambda text: text,
) -> None:
    folder = data / name
    folder.mkdir()
    lines = []
    for line in (data / "photos" / "metadata.jsonl").read_text().splitlines():
        record = json.loads(line)
        content = (data / "photos" / record["file_name"]).read_bytes()
        (folder / record["file_name"]).write_bytes(photo(content))
        lines.append(json.dumps(record | {"captions": [caption(text) for text in record["captions"]]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def _listed(places: Places) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = json.loads((places.out / PROBLEMS).read_text())
    return listed
