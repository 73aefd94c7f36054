"""POST /v1/captions in all its forms, through the real application."""

import base64
import hashlib
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from service.registry import ServedModel
from tests.service import pictures

CAT = pictures.encoded(pictures.cat(), "JPEG", quality=90)
NOT_AN_IMAGE = b"this is a text file"


def upload(data: bytes, name: str = "cat.jpg") -> tuple[str, tuple[str, bytes]]:
    return ("image", (name, data))


def post_raw(
    client: TestClient, data: bytes, *, query: str = "", content_type: str = "image/jpeg"
) -> Response:
    return client.post(f"/v1/captions{query}", content=data, headers={"Content-Type": content_type})


def captions_of(response: Response) -> list[list[dict[str, Any]]]:
    assert response.status_code == 200, response.text
    return [result["captions"] for result in response.json()["results"]]


def problem_of(response: Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    return problem


def test_answer_has_the_documented_shape(client: TestClient, tiny_model: ServedModel) -> None:
    answer = client.post("/v1/captions?strategy=greedy", files=[upload(CAT)]).json()
    clip = tiny_model.captioner.clip
    assert set(answer) == {"id", "model", "scorer", "language", "results", "timing"}
    assert answer["language"] == "en"
    assert answer["model"] == {"name": "tiny", "version": tiny_model.version}
    assert answer["scorer"] == {"name": clip.name, "revision": clip.revision}
    (result,) = answer["results"]
    assert result["image"] == {
        "width": 144,
        "height": 96,
        "format": "JPEG",
        "sha256": hashlib.sha256(CAT).hexdigest(),
    }
    assert (result["index"], result["file_name"], result["warnings"], result["error"]) == (
        0,
        "cat.jpg",
        [],
        None,
    )
    assert all(value >= 0 for value in answer["timing"].values())
    assert answer["timing"]["total_ms"] > 0


def test_caption_carries_its_scores(client: TestClient) -> None:
    ((caption,),) = captions_of(post_raw(client, CAT, query="?strategy=greedy"))
    assert set(caption) == {
        "text",
        "clip_similarity",
        "clip_score",
        "log_likelihood",
        "num_tokens",
        "finish_reason",
    }
    assert caption["clip_score"] == pytest.approx(2.5 * max(caption["clip_similarity"], 0), abs=1e-3)
    assert caption["log_likelihood"] < 0
    assert caption["finish_reason"] in ("stop", "length")


def test_form_raw_body_base64_and_data_url_give_the_same_captions(client: TestClient) -> None:
    encoded = base64.b64encode(CAT).decode()
    json = {
        "images": [{"data": encoded}, {"data": f"data:image/jpeg;base64,{encoded}"}],
        "options": {"seed": 3},
    }
    raw = captions_of(post_raw(client, CAT, query="?seed=3"))
    form = captions_of(client.post("/v1/captions", files=[upload(CAT)], data={"seed": "3"}))
    assert raw == form
    assert captions_of(client.post("/v1/captions", json=json)) == raw * 2


def test_embedding_is_captioned_without_an_image(client: TestClient, tiny_model: ServedModel) -> None:
    numbers = [0.1 * index for index in range(tiny_model.captioner.clip.embed_dim)]
    longer = [3.0 * number for number in numbers]
    body = {"images": [{"embedding": numbers, "file_name": "x"}, {"embedding": longer}]}
    response = client.post("/v1/captions", json=body)
    first, second = captions_of(response)
    assert first == second != []
    assert response.json()["results"][0]["image"] is None
    assert response.json()["results"][0]["file_name"] == "x"


@pytest.mark.parametrize("numbers", [[1.0, 2.0], [0.0] * 16, [1e300] * 16])
def test_impossible_embedding_is_refused(client: TestClient, numbers: list[float]) -> None:
    response = client.post("/v1/captions", json={"images": [{"embedding": numbers}]})
    assert problem_of(response, 422)["type"].endswith(":invalid-embedding")


def test_several_candidates_come_best_first_by_clip(client: TestClient) -> None:
    ((first, *others),) = captions_of(post_raw(client, CAT, query="?num_captions=3&num_beams=4"))
    scores = [caption["clip_similarity"] for caption in (first, *others)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_one_bad_image_does_not_cost_the_others(client: TestClient) -> None:
    response = client.post(
        "/v1/captions", files=[upload(CAT), upload(NOT_AN_IMAGE, "notes.txt"), upload(CAT, "b")]
    )
    good, bad, other = response.json()["results"]
    assert response.status_code == 200
    assert good["captions"] == other["captions"] != []
    assert (bad["index"], bad["file_name"], bad["captions"], bad["image"]) == (1, "notes.txt", [], None)
    assert (bad["error"]["status"], bad["error"]["type"]) == (
        415,
        "urn:semicap:problem:unsupported-image-format",
    )


def test_all_images_bad_is_the_first_ones_problem(client: TestClient) -> None:
    broken = pictures.truncated_jpeg(pictures.cat())
    problem = problem_of(client.post("/v1/captions", files=[upload(broken), upload(NOT_AN_IMAGE)]), 422)
    assert problem["type"].endswith(":broken-image")
    assert [error["status"] for error in problem["errors"]] == [422, 415]


def test_url_is_refused_with_what_to_do(client: TestClient) -> None:
    problem = problem_of(
        client.post("/v1/captions", json={"images": [{"url": "https://example.org/a.jpg"}]}), 422
    )
    assert problem["type"].endswith(":url-fetching-disabled")
    assert "data" in problem["detail"]


@pytest.mark.parametrize("form", ["query", "form", "json"])
def test_unknown_option_names_the_nearest_one(client: TestClient, form: str) -> None:
    if form == "query":
        response = post_raw(client, CAT, query="?num_beam=3")
    elif form == "form":
        response = client.post("/v1/captions", files=[upload(CAT)], data={"num_beam": "3"})
    else:
        image = {"data": base64.b64encode(CAT).decode()}
        response = client.post("/v1/captions", json={"images": [image], "options": {"num_beam": 3}})
    assert problem_of(response, 422)["did_you_mean"] == "num_beams"


@pytest.mark.parametrize(
    ("query", "option"),
    [
        ("?num_beams=0", "num_beams"),
        ("?strategy=greedy&num_captions=2", "num_captions"),
        ("?seed=1&seed=2", "seed"),
    ],
)
def test_invalid_option_is_named(client: TestClient, query: str, option: str) -> None:
    assert problem_of(post_raw(client, CAT, query=query), 422)["option"] == option


def test_unknown_model_is_404_and_the_known_one_answers(client: TestClient, tiny_model: ServedModel) -> None:
    assert tiny_model.id in problem_of(post_raw(client, CAT, query="?model=gpt-5"), 404)["detail"]
    for name in (tiny_model.name, tiny_model.version, tiny_model.id):
        assert post_raw(client, CAT, query=f"?model={name}").status_code == 200


@pytest.mark.parametrize(
    ("request_parts", "status", "kind"),
    [
        ({"content": b""}, 422, "no-image"),
        ({"content": b"", "headers": {"Content-Type": "image/png"}}, 422, "no-image"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),
        ({"content": b"x"}, 415, "unsupported-media-type"),
        ({"json": {"images": []}}, 422, "invalid-request"),
        ({"json": {"images": [{}]}}, 422, "invalid-request"),
        ({"json": {"images": [{"data": "AA==", "url": "x"}]}}, 422, "invalid-request"),
        ({"json": {"images": [{"data": "not base64!"}]}}, 422, "broken-image"),
        ({"json": {"images": [{"data": ""}]}}, 422, "broken-image"),
        ({"json": {"image": [{"data": "AA=="}]}}, 422, "invalid-request"),
        ({"json": [1, 2]}, 422, "invalid-request"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "invalid-request"),
        ({"files": [("photo", ("a.jpg", CAT))]}, 422, "invalid-request"),
        ({"files": [("image", ("a.jpg", CAT))], "data": {"image": "text"}}, 422, "invalid-request"),
        ({"files": [("image", ("", b""))]}, 422, "invalid-request"),
        ({"files": [("image", ("a.jpg", b""))]}, 422, "broken-image"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422, "invalid-request"),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            422,
            "invalid-request",
        ),
        ({"files": [upload(CAT)] * 65}, 413, "too-many-images"),
        ({"files": [upload(CAT)] * 80}, 413, "too-many-images"),
        ({"json": {"images": [{"embedding": [1.0]}] * 65}}, 413, "too-many-images"),
    ],
)
def test_unusable_request_is_a_problem(
    client: TestClient, request_parts: dict[str, Any], status: int, kind: str
) -> None:
    assert problem_of(client.post("/v1/captions", **request_parts), status)["type"].endswith(f":{kind}")


def test_problem_of_a_field_name_in_json_names_the_nearest(client: TestClient) -> None:
    problem = problem_of(client.post("/v1/captions", json={"images": [{"dat": "AA=="}]}), 422)
    assert problem["did_you_mean"] == "data"


def test_options_of_the_body_win_over_those_of_the_query(client: TestClient) -> None:
    expected = captions_of(post_raw(client, CAT, query="?strategy=sample&seed=3"))
    path = "/v1/captions?strategy=sample&seed=8"
    json = {"images": [{"data": base64.b64encode(CAT).decode()}], "options": {"seed": 3}}
    assert captions_of(client.post(path, json=json)) == expected
    assert captions_of(client.post(path, files=[upload(CAT)], data={"seed": "3"})) == expected
