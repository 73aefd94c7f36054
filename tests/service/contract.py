"""Generated requests over the whole OpenAPI of a running service; what its answers are held to."""

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
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

EXAMPLES = int(os.environ.get("SEMICAP_TEST_API_EXAMPLES", "20"))
"""Requests of each kind for each operation."""

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
    """A running service, and what it says of itself."""

    address: str
    description: dict[str, Any]

    def only(self, is_wanted: Callable[[str, str, dict[str, Any]], bool]) -> dict[str, Any]:
        """The description of some operations, by method, path and what it says of them."""
        paths = {
            path: {
                method: operation
                for method, operation in operations.items()
                if is_wanted(method.upper(), path, operation)
            }
            for path, operations in self.description["paths"].items()
        }
        return {**self.description, "paths": {path: some for path, some in paths.items() if some}}


@contextmanager
def running_api(folder: Path, model: ServedModel, checkpoint: Path) -> Iterator[Api]:
    """A service with a broker, jobs and a registry; with API keys where the folder has their file.

    Args:
        folder: its data folder.
        checkpoint: of the model that answers.
    """
    with running_broker(folder / "broker") as broker:
        settings = Settings(
            data_dir=folder,
            precision="fp32",  # nothing is measured when a version is activated
            redis_url=broker.url,
            webhook_secret="whsec_" + 32 * "A",
            webhook_private=True,
        )
        registry = ModelRegistry(ArtifactStore.open(settings.store_location), settings.model_cache)
        registry.activate(registry.publish(checkpoint, origin="imported").id)
        with served(create_app(settings, model, registry=registry)) as address:
            yield Api(address, httpx2.get(f"{address}/openapi.json").json())


def check_all(
    api: Api,
    description: dict[str, Any],
    mode: GenerationMode,
    *,
    headers: Mapping[str, str] | None = None,
    examples: int = EXAMPLES,
    only_status: int | None = None,
) -> set[str]:
    """Checks every operation of a description; those of which there is no such request.

    Args:
        headers: sent with each request.
        examples: requests for each operation.
        only_status: of every answer; None is any that is documented.
    """
    schema = schemathesis.openapi.from_dict(description)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == sum(len(several) for several in description["paths"].values())
    sent = dict(headers or {})

    def ask(case: Case[Any]) -> None:
        response = case.call(base_url=api.address, headers=sent, timeout=60)
        assert only_status in (None, response.status_code), response.text
        explained: list[Any] = [positive_data_acceptance] if _is_explained(response) else []
        case.validate_response(response, headers=sent, excluded_checks=explained)

    return {one.label for one in operations if not _each(one, mode, ask, examples=examples)}


def _each(operation: Any, mode: GenerationMode, ask: Callable[[Case[Any]], None], *, examples: int) -> bool:
    """Whether there are such requests of an operation, of which some are asked."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # an answer is found wrong, not made small
        suppress_health_check=list(HealthCheck),
    )
    def ask_one(case: Case[Any]) -> None:
        ask(case)

    try:
        ask_one()
    except Unsatisfiable:
        return False
    return True


def with_json_bodies_only(description: dict[str, Any]) -> dict[str, Any]:
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
