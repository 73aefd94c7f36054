"""What of a foreign request's options is taken, and how."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.adapters.client_options import check_client_model, client_options
from service.engine.options import CaptionOptions
from service.errors import InvalidOptionError, ModelNotFoundError
from service.registry import ServedModel
from tests.service.conftest import parts_of

PASTED = CaptionOptions(one_sentence=True, sentence_case=True, final_stop="add")


@pytest.mark.parametrize(
    ("given", "field", "taken"),
    [
        ({}, "final_stop", "add"),
        ({"final_stop": "remove"}, "final_stop", "remove"),
        ({"max_tokens": 4000}, "max_tokens", 256),
        ({"max_tokens": 20.0}, "max_tokens", 20),
        ({"temperature": 0}, "temperature", 0.01),
        ({"temperature": None}, "temperature", 1.0),
        ({"seed": -1}, "seed", 0),
        ({"top_k": 40, "top_p": 0.9, "num_ctx": 4096}, "top_k", 40),
        ({"max_chars": 125}, "max_chars", 125),
    ],
)
def test_option_is_taken_within_our_limits(given: dict[str, Any], field: str, taken: object) -> None:
    assert getattr(client_options(given), field) == taken


def test_unknown_fields_change_nothing() -> None:
    assert client_options({"presence_penalty": 1, "model": "gpt-4o", "stop": ["x"]}) == PASTED


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": float("nan")},
        {"top_k": float("nan")},
        {"seed": "one"},
        {"max_tokens": True},
        {"num_beams": 99},
        {"strategy": "best"},
    ],
)
def test_option_that_means_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        client_options(given)


@pytest.mark.parametrize("name", ["", None, "gpt-4o", "llava:13b", "tiny", "tiny:latest", "{id}"])
def test_foreign_names_and_ours_are_answered(
    client: TestClient, tiny_model: ServedModel, name: str | None
) -> None:
    models = parts_of(client).models
    check_client_model(models, tiny_model, name.format(id=tiny_model.id) if name else name)


def test_version_of_ours_that_is_not_here_is_refused(client: TestClient, tiny_model: ServedModel) -> None:
    with pytest.raises(ModelNotFoundError, match=tiny_model.version):
        check_client_model(parts_of(client).models, tiny_model, "tiny:0123")
