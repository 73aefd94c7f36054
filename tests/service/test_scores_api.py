"""POST /v1/scores through the real application."""

import base64
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.schemas import MAX_TEXTS
from service.registry import ServedModel
from tests.service import pictures

CAT = pictures.encoded(pictures.cat(), "JPEG", quality=90)
TEXTS = ["the dog in the snow", "a cat", "the red ball on the grass"]


def body(*images: dict[str, Any], texts: Any = TEXTS) -> dict[str, Any]:
    return {"images": list(images), "texts": texts}


def data(content: bytes = CAT) -> dict[str, str]:
    return {"data": base64.b64encode(content).decode()}


def test_every_image_is_compared_with_every_text(client: TestClient, tiny_model: ServedModel) -> None:
    other = pictures.photos(1)[0]
    response = client.post("/v1/scores", json=body(data() | {"file_name": "cat.jpg"}, data(other)))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["scorer"]["name"] == tiny_model.captioner.clip.name
    first, second = answer["results"]
    assert [score["text"] for score in first["scores"]] == TEXTS
    assert (first["file_name"], first["image"]["width"], second["index"]) == ("cat.jpg", 144, 1)
    assert first["scores"] != second["scores"]
    for score in first["scores"]:
        assert score["clip_score"] == pytest.approx(2.5 * max(score["clip_similarity"], 0), abs=1e-3)


def test_a_caption_has_the_score_that_it_came_with(client: TestClient) -> None:
    answer = client.post("/v1/captions", json={"images": [data()], "options": {"num_captions": 3}}).json()
    captions = answer["results"][0]["captions"]
    scored = client.post("/v1/scores", json=body(data(), texts=[one["text"] for one in captions])).json()
    got = [score["clip_similarity"] for score in scored["results"][0]["scores"]]
    assert got == pytest.approx([one["clip_similarity"] for one in captions], abs=1e-3)


def test_form_and_json_give_the_same_scores(client: TestClient) -> None:
    form = client.post("/v1/scores", files=[("image", ("cat.jpg", CAT))], data={"text": TEXTS}).json()
    json = client.post("/v1/scores", json=body(data())).json()
    assert form["results"][0]["scores"] == json["results"][0]["scores"]


def test_an_embedding_is_scored(client: TestClient, tiny_model: ServedModel) -> None:
    numbers = [0.1 * index for index in range(tiny_model.captioner.clip.embed_dim)]
    (result,) = client.post("/v1/scores", json=body({"embedding": numbers})).json()["results"]
    assert len(result["scores"]) == 3
    assert result["image"] is None


def test_one_bad_image_does_not_cost_the_others(client: TestClient) -> None:
    good, bad = client.post("/v1/scores", json=body(data(), data(b"a text"))).json()["results"]
    assert len(good["scores"]) == 3
    assert (bad["scores"], bad["error"]["status"]) == ([], 415)


@pytest.mark.parametrize(
    ("sent", "status", "problem"),
    [
        (body(data(), texts=[]), 422, "invalid-request"),
        (body(data(), texts=[""]), 422, "invalid-request"),
        (body(data(), texts=["a"] * (MAX_TEXTS + 1)), 422, "invalid-request"),
        (body(data(), texts="a dog"), 422, "invalid-request"),
        (body(texts=["a"]), 422, "invalid-request"),
        (body(data()) | {"text": ["a"]}, 422, "invalid-request"),
        (body(data(b"a text")), 415, "unsupported-image-format"),
        (body(*[data()] * 65), 413, "too-many-images"),
    ],
)
def test_a_wrong_request_is_a_problem(client: TestClient, sent: Any, status: int, problem: str) -> None:
    response = client.post("/v1/scores", json=sent)
    assert response.status_code == status
    assert response.json()["type"] == f"urn:semicap:problem:{problem}"


def test_a_mistyped_field_is_named_with_the_nearest(client: TestClient) -> None:
    answer = client.post("/v1/scores", json=body(data()) | {"text": ["a"]}).json()
    assert answer["did_you_mean"] == "texts"
    form = client.post("/v1/scores", files=[("image", ("cat.jpg", CAT))], data={"texts": "a"}).json()
    assert form["did_you_mean"] == "text"


def test_another_content_type_is_415(client: TestClient) -> None:
    assert client.post("/v1/scores", content=CAT, headers={"Content-Type": "image/jpeg"}).status_code == 415
