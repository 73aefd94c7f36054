"""Models, health, metrics and the API's own description."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.api import examples
from service.metrics import Metrics
from service.option_reading import OPTION_NAMES
from service.registry import ServedModel
from tests.service import pictures

PHOTO = pictures.encoded(pictures.cat(), "JPEG")


def test_model_list_has_openais_shape_with_our_fields(client: TestClient, tiny_model: ServedModel) -> None:
    body = client.get("/v1/models").json()
    model, shipped = body["data"]
    assert (body["object"], model["object"], model["owned_by"]) == ("list", "model", "semicap")
    assert (shipped["origin"], shipped["is_active"]) == ("shipped", False)
    assert isinstance(model["created"], int)
    assert model["id"] == f"tiny:{tiny_model.version}"
    assert (model["stage"], model["is_active"], model["language"]) == ("supervised", True, "en")


def test_one_model_is_found_by_each_of_its_names_with_its_card(
    client: TestClient, tiny_model: ServedModel
) -> None:
    for name in (tiny_model.id, tiny_model.name, tiny_model.version):
        body = client.get(f"/v1/models/{name}").json()
        assert body["id"] == tiny_model.id
        assert "Random weights" in body["card"]
        assert body["embedding_numbers"] == tiny_model.captioner.clip.embed_dim
    assert client.get("/v1/models/other").status_code == 404


def test_running_service_is_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == client.get("/health/ready").json() == {"status": "ok"}


def test_metrics_follow_a_request(client: TestClient, tiny_model: ServedModel) -> None:
    client.post("/v1/captions", content=PHOTO, headers={"Content-Type": "image/jpeg"})
    client.post("/v1/captions", content=b"text", headers={"Content-Type": "image/jpeg"})
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    request = (("method", "POST"), ("route", "/v1/captions"))
    assert samples[("semicap_http_requests_total", *request, ("status", "200"))] >= 1
    assert samples[("semicap_http_request_duration_seconds_count", *request, ("status", "415"))] >= 1
    assert samples[("semicap_images_total", ("outcome", "captioned"))] >= 1
    assert samples[("semicap_images_total", ("outcome", "unsupported-image-format"))] >= 1
    assert samples[("semicap_clip_score_count",)] >= 1
    assert samples[("semicap_queue_wait_seconds_count", ("priority", "interactive"))] >= 1
    assert samples[("semicap_http_requests_in_flight",)] == 1
    assert samples[("semicap_queue_depth",)] == 0
    for stage in ("encode", "decode", "score"):
        assert samples[("semicap_stage_seconds_count", ("stage", stage))] >= 1
        assert samples[("semicap_batch_size_count", ("stage", stage))] >= 1
    (info,) = [key for key in samples if key[0] == "semicap_model_info"]
    assert {("name", "tiny"), ("version", tiny_model.version)} <= set(info[1:])


def test_metrics_of_two_applications_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.image_rejected("broken-image")
    assert b'outcome="broken-image"' in first.render()
    assert b'outcome="broken-image"' not in second.render()


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/live", "/health/ready", "/api/version", "/api/tags"]
)
def test_head_is_answered_as_get_is(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]


def test_unknown_methods_and_paths_make_no_new_series(client: TestClient) -> None:
    for index in range(5):
        client.request(f"BREW{index}", f"/pot/{index}")
    text = client.get("/metrics").text
    assert "BREW" not in text
    assert "/pot/" not in text


def test_openapi_describes_every_option_in_each_form(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/v1/captions"]["post"]
    content = operation["requestBody"]["content"]
    assert {parameter["name"] for parameter in operation["parameters"]} == set(OPTION_NAMES)
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"image", *OPTION_NAMES}
    options = content["application/json"]["schema"]["properties"]["options"]
    assert set(options["properties"]) == set(OPTION_NAMES)
    assert "image/jpeg" in content


@pytest.mark.parametrize("status", ["404", "408", "413", "415", "422", "429", "500", "503", "504"])
def test_openapi_declares_problems_as_problem_json(client: TestClient, status: str) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/captions"]["post"]
    (media_type,) = operation["responses"][status]["content"]
    assert media_type == "application/problem+json"


def test_openapi_has_no_dangling_reference(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    known = {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert set(_references(schema)) <= known


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in _references(part)]
    if isinstance(value, list):
        return [found for part in value for found in _references(part)]
    return []


def test_example_of_a_problem_is_what_the_service_answers(client: TestClient) -> None:
    data = pictures.one_bit_png(12_000, 12_000)
    with pytest.warns(match="exceeds limit"):
        response = client.post("/v1/captions", content=data, headers={"Content-Type": "image/png"})
    assert response.json() == examples.IMAGE_TOO_LARGE
