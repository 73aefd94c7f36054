"""Generated requests over the whole OpenAPI: answers are as documented, and nothing forbidden is accepted."""

import base64
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.api.app import create_app
from service.image_formats import MEDIA_TYPES
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry
from service.problems import PROBLEM_MEDIA_TYPE, TYPE_PREFIX
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.served import served
from tests.service import pictures
from tests.service.jobs.broker import running_broker

EXAMPLES = 20
PHOTOS = pictures.photos(3, edge=32)
EXPLAINED = {
    "invalid-option",  # two options that do not fit together, as num_captions above num_beams
    "invalid-embedding",  # of a length that only the model knows
    "url-fetching-disabled",
    "no-image",  # an empty body
    "unsupported-image-format",
    "broken-image",
    "model-not-found",
    "invalid-model-name",  # as an alias
    "no-earlier-model",
    "idempotency-key-reused",  # the generated requests share a few keys
    "invalid-dataset",  # a form whose files are no photos
    "unsupported-media-type",
}
"""Problems that a request which fits the schema may meet, because a schema cannot say so much."""

schemathesis.openapi.format("binary", st.sampled_from(PHOTOS))
schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(photo).decode() for photo in PHOTOS]))
for media_type in MEDIA_TYPES:
    schemathesis.openapi.media_type(media_type, st.sampled_from(PHOTOS))


@dataclass(frozen=True)
class Api:
    """The running service, and what it says of itself."""

    address: str
    description: dict[str, Any]


@pytest.fixture(scope="module")
def api(
    tiny_model: ServedModel, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("data")
    with running_broker(folder / "broker") as broker:
        settings = Settings(
            data_dir=folder,
            precision="fp32",  # nothing is measured when a version is activated
            redis_url=broker.url,
            webhook_secret="whsec_" + 32 * "A",
            webhook_private=True,
        )
        registry = ModelRegistry(ArtifactStore.open(settings.store_location), settings.model_cache)
        registry.activate(registry.publish(tiny_checkpoint, origin="imported").id)
        with served(create_app(settings, tiny_model, registry=registry)) as address:
            yield Api(address, httpx2.get(f"{address}/openapi.json").json())


def test_requests_that_fit_are_answered_as_documented(api: Api) -> None:
    unable = _check_all(api, api.description, GenerationMode.POSITIVE)
    assert unable == set()


def test_requests_that_do_not_fit_are_refused_as_documented(api: Api) -> None:
    reduced = _with_json_bodies_only(api.description)
    unable = _check_all(api, reduced, GenerationMode.NEGATIVE)
    any_will_do = {  # no body, and no parameter but a name or a header, which may be any text
        f"{method.upper()} {path}"
        for path, operations in reduced["paths"].items()
        for method, operation in operations.items()
        if "requestBody" not in operation
        and all(
            parameter["in"] in ("path", "header") and parameter["schema"].get("type") != "integer"
            for parameter in operation.get("parameters", ())
        )
    }
    assert unable == any_will_do


def _check_all(api: Api, description: dict[str, Any], mode: GenerationMode) -> set[str]:
    """Checks every operation; those of which there is no such request."""
    schema = schemathesis.openapi.from_dict(description)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == sum(len(several) for several in description["paths"].values())
    return {one.label for one in operations if not _check(one, mode, address=api.address)}


def _check(operation: Any, mode: GenerationMode, *, address: str) -> bool:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # an answer is found wrong, not made small
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Case[Any]) -> None:
        response = case.call(base_url=address, timeout=60)
        explained: list[Any] = [positive_data_acceptance] if _is_explained(response) else []
        case.validate_response(response, excluded_checks=explained)

    try:
        ask()
    except Unsatisfiable:
        return False
    return True


def _with_json_bodies_only(description: dict[str, Any]) -> dict[str, Any]:
    """Without what cannot be wrong: everything in a form is text, and any bytes can be an image."""
    reduced = deepcopy(description)
    for operations in reduced["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                operation["requestBody"]["content"] = {"application/json": content["application/json"]}
            else:
                operation.pop("requestBody", None)
    return reduced


def _is_explained(response: Response) -> bool:
    if response.headers["content-type"][0] == PROBLEM_MEDIA_TYPE:
        return response.json()["type"].removeprefix(TYPE_PREFIX) in EXPLAINED
    return response.status_code in (400, 404)  # the adapters' shapes have no types as fine as ours
