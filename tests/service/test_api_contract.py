"""Generated requests over the whole OpenAPI: answers are as documented, and nothing forbidden is accepted.

SEMICAP_TEST_API_EXAMPLES says how many of each kind, if not 20.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from schemathesis import GenerationMode

from service.registry import ServedModel
from tests.service.contract import Api, check_all, running_api, with_json_bodies_only


@pytest.fixture(scope="module")
def api(
    tiny_model: ServedModel, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), tiny_model, tiny_checkpoint) as running:
        yield running


def test_requests_that_fit_are_answered_as_documented(api: Api) -> None:
    assert check_all(api, api.description, GenerationMode.POSITIVE) == set()


def test_requests_that_do_not_fit_are_refused_as_documented(api: Api) -> None:
    reduced = with_json_bodies_only(api.description)
    unable = check_all(api, reduced, GenerationMode.NEGATIVE)
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
