"""Company in the batch changes no caption."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.service import pictures
from tests.service.conftest import MakeClient

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return pictures.photos(20)


def caption(client: TestClient, photo: bytes, query: str = "strategy=greedy") -> str:
    response = client.post(f"/v1/captions?{query}", content=photo, headers=JPEG)
    assert response.status_code == 200, response.text
    return str(response.json()["results"][0]["captions"][0]["text"])


def test_twenty_photos_one_by_one_equal_twenty_in_one_request(
    client: TestClient, photos: list[bytes]
) -> None:
    files = [("image", (f"{index}.jpg", photo)) for index, photo in enumerate(photos)]
    response = client.post("/v1/captions?strategy=greedy", files=files)
    together = [result["captions"][0]["text"] for result in response.json()["results"]]
    assert [result["file_name"] for result in response.json()["results"]] == [name for _, (name, _) in files]
    assert together == [caption(client, photo) for photo in photos]
    assert len(set(together)) > 1


@pytest.mark.parametrize("query", ["strategy=greedy", "strategy=beam", "strategy=sample&seed=7"])
def test_sixteen_clients_at_once_equal_one_client(
    make_client: MakeClient, photos: list[bytes], query: str
) -> None:
    client = make_client(repeated_images=0)
    alone = [caption(client, photo, query) for photo in photos]
    before = batches_above_one(client)
    with ThreadPoolExecutor(16) as clients:
        together = list(clients.map(lambda photo: caption(client, photo, query), photos * 3))
    assert together == alone * 3
    assert batches_above_one(client)["decode"] > before["decode"] or query != "strategy=greedy"
    assert batches_above_one(client)["encode"] > before["encode"]


def batches_above_one(client: TestClient) -> dict[str, float]:
    """Batches of more than one, by stage, as /metrics counts them."""
    counts = {"encode": 0.0, "decode": 0.0}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "semicap_batch_size_bucket" and sample.labels["stage"] in counts:
                sign = {"+Inf": 1.0, "1.0": -1.0}.get(sample.labels["le"], 0.0)
                counts[sample.labels["stage"]] += sign * sample.value
    return counts
