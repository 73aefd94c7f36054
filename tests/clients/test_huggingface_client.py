"""huggingface_hub's client against /models/..., and the task's JSON form."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from starlette.testclient import TestClient

from tests.service.clients import CAT, encoded


def test_image_to_text_gets_a_caption(address: str) -> None:
    client = InferenceClient(model=f"{address}/models/Salesforce/blip-image-captioning-base", token="none")
    text = client.image_to_text(CAT).generated_text
    assert text is not None
    assert text.endswith(".")


def test_what_is_no_image_is_an_error(address: str) -> None:
    client = InferenceClient(model=f"{address}/models/semicap", token="none")
    with pytest.raises(HfHubHTTPError) as raised:
        client.image_to_text(b"text")
    assert raised.value.response.status_code == 400


def test_json_form_takes_options(client: TestClient) -> None:
    raw = client.post("/models/semicap", content=CAT, headers={"Content-Type": "image/jpeg"}).json()
    whole = client.post("/models/semicap", json={"inputs": encoded()}).json()
    assert raw == whole
    asked = {"inputs": encoded(), "parameters": {"num_captions": 3, "max_new_tokens": 4, "other": 1}}
    several = client.post("/models/semicap", json=asked).json()
    assert len(several) == 3
    assert all(set(one) == {"generated_text"} for one in several)
