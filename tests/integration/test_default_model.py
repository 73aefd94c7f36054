"""The model that comes along, behind the real application, on real photos."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from obstore.store import MemoryStore
from PIL import Image
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.examples import EXAMPLES_FILE, Example, read_examples
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry
from service.registry import load_served_model
from service.settings import Settings
from tests.service import pictures
from tests.service.server_events import events_of

UPDATE = "SEMICAP_UPDATE_EXAMPLES"
"""Set it to write the answers in service/api/examples.json anew, after the default model has changed."""

HINT = f"run this with {UPDATE}=1 if the model or the API has changed on purpose"
VARYING = {"id", "created", "created_at", "modified_at", "timing", "semicap"} | {
    f"{name}_duration" for name in ("total", "load", "prompt_eval", "eval")
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    registry = ModelRegistry(ArtifactStore(MemoryStore()), tmp_path_factory.mktemp("cache"))
    model = load_served_model(None, device="cpu")
    with TestClient(
        create_app(Settings(precision="fp32", repeated_images=0), model, registry=registry)
    ) as client:
        yield client


def greedy(service: TestClient, *photos: Path) -> list[str]:
    files = [("image", (photo.name, photo.read_bytes())) for photo in photos]
    response = service.post("/v1/captions?strategy=greedy", files=files)
    assert response.status_code == 200, response.text
    return [result["captions"][0]["text"] for result in response.json()["results"]]


def test_the_model_that_comes_along_captions_a_real_photo(service: TestClient) -> None:
    photo = pictures.encoded(Image.fromarray(skimage.data.astronaut()), "PNG")  # type: ignore[no-untyped-call]
    answer = service.post("/v1/captions", files=[("image", ("astronaut.png", photo))]).json()
    (caption,) = answer["results"][0]["captions"]
    assert len(caption["text"].split()) > 3
    assert caption["clip_similarity"] > 0.3


@pytest.mark.parametrize("example", read_examples(), ids=lambda example: example.operation)
def test_example_in_the_docs_is_what_the_service_answers(service: TestClient, example: Example) -> None:
    response = service.request(example.method, example.path, json=example.request)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == example.media_type
    answer = response.json() if example.media_type == "application/json" else response.text
    if os.environ.get(UPDATE):
        _write(replace(example, answer=answer))
    else:
        assert_same(_events(answer), _events(example.answer))


def assert_same(answer: Any, shown: Any, *, at: str = "answer") -> None:
    """The same but for what differs from one request to the next, and numbers as close as processors are."""
    assert type(answer) is type(shown), f"{at}; {HINT}"
    if isinstance(shown, dict):
        assert answer.keys() == shown.keys(), f"{at}; {HINT}"
        for name in shown.keys() - VARYING:
            assert_same(answer[name], shown[name], at=f"{at}.{name}")
    elif isinstance(shown, list):
        assert len(answer) == len(shown), f"{at}; {HINT}"
        for index, (one, other) in enumerate(zip(answer, shown, strict=True)):
            assert_same(one, other, at=f"{at}[{index}]")
    elif isinstance(shown, float):
        assert answer == pytest.approx(shown, abs=0.02), f"{at}; {HINT}"
    else:
        assert answer == shown, f"{at}; {HINT}"


def _events(answer: Any) -> Any:
    """The result of a stream: the hypotheses before it may differ where processors round differently."""
    return events_of(answer)[-1][1] if isinstance(answer, str) else answer


def _write(example: Example) -> None:
    others = {one.operation: one for one in read_examples()} | {example.operation: example}
    text = json.dumps([asdict(one) for one in others.values()], indent=2)
    EXAMPLES_FILE.write_text(text + "\n")


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
