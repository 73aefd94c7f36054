"""The model that comes along, behind the real application, on real photos."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image
from starlette.testclient import TestClient

from service.api import examples
from service.api.app import create_app
from service.registry import load_served_model
from service.settings import Settings
from tests.service import pictures

UPDATE = "SEMICAP_UPDATE_EXAMPLES"
"""Set it to write service/api/examples.json anew, after the default model has changed."""


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(), load_served_model(None, device="cpu"))) as client:
        yield client


def greedy(service: TestClient, *photos: Path) -> list[str]:
    files = [("image", (photo.name, photo.read_bytes())) for photo in photos]
    response = service.post("/v1/captions?strategy=greedy", files=files)
    assert response.status_code == 200, response.text
    return [result["captions"][0]["text"] for result in response.json()["results"]]


def test_example_in_the_docs_is_what_the_default_model_answers(service: TestClient) -> None:
    photo = pictures.encoded(Image.fromarray(skimage.data.astronaut()), "PNG")  # type: ignore[no-untyped-call]
    answer: dict[str, Any] = service.post(
        "/v1/captions", files=[("image", ("astronaut.png", photo))], data={"num_captions": "2"}
    ).json()
    if os.environ.get(UPDATE):
        examples.EXAMPLES_FILE.write_text(json.dumps(answer, indent=2) + "\n")
    shown = examples.captions_answer()
    assert (answer["model"], answer["scorer"]) == (shown["model"], shown["scorer"]), (
        f"run this with {UPDATE}=1"
    )
    captions, shown_captions = (one["results"][0]["captions"] for one in (answer, shown))
    assert [caption["text"] for caption in captions] == [caption["text"] for caption in shown_captions]
    assert captions[0]["clip_score"] == pytest.approx(shown_captions[0]["clip_score"], abs=0.02)


@pytest.mark.shared_data
@pytest.mark.slow
def test_twenty_photos_one_by_one_together_and_by_sixteen_clients_are_the_same(
    service: TestClient, shared_photos: list[Path]
) -> None:
    photos = shared_photos[:20]
    alone = [greedy(service, photo)[0] for photo in photos]
    assert greedy(service, *photos) == alone
    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(lambda photo: greedy(service, photo)[0], photos * 2)) == alone * 2
    assert len(set(alone)) > 10
