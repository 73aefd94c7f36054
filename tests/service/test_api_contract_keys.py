"""Generated requests over the whole OpenAPI where there are keys: with one, without, with a wrong one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from schemathesis import GenerationMode

from service.api.access import wanted_scopes
from service.keys import KeyStore, Scope
from service.registry import ServedModel
from tests.service.contract import EXAMPLES, Api, check_all, running_api, with_json_bodies_only

FEW = max(2, EXAMPLES // 5)
"""Requests for each operation: those that a key lets pass are as many where there are no keys."""

BOTH = pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@dataclass(frozen=True)
class Closed:
    """A service that has keys, one of each scope and one that is revoked."""

    api: Api
    secrets: Mapping[Scope, str]
    revoked: str

    def headers(self, scope: Scope) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[scope]}"}


@pytest.fixture(scope="module")
def closed(
    tiny_model: ServedModel, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("data")
    store = KeyStore(folder / "keys.json")
    secrets = {scope: store.create(scope, (scope,))[0] for scope in Scope}
    revoked, key = store.create("revoked", (Scope.ADMIN,))
    store.revoke(key.id)
    with running_api(folder, tiny_model, tiny_checkpoint) as api:
        yield Closed(api, secrets, revoked)


def test_with_a_key_requests_that_fit_are_answered_as_documented(closed: Closed) -> None:
    """What succeeds is asked again without the key and with an invalid one, and has to be refused."""
    headers = closed.headers(Scope.ADMIN)
    description = closed.api.description
    assert check_all(closed.api, description, GenerationMode.POSITIVE, headers=headers, examples=FEW) == set()


def test_with_a_key_requests_that_do_not_fit_are_refused_as_documented(closed: Closed) -> None:
    headers = closed.headers(Scope.ADMIN)
    description = with_json_bodies_only(closed.api.description)
    unable = check_all(closed.api, description, GenerationMode.NEGATIVE, headers=headers, examples=FEW)
    assert "POST /v1/captions" not in unable


@BOTH
@pytest.mark.parametrize("presented", ["nothing", "unknown", "revoked"])
def test_without_a_valid_key_what_is_guarded_is_401(
    closed: Closed, mode: GenerationMode, presented: str
) -> None:
    headers = {
        "nothing": {},
        "unknown": {"Authorization": "Bearer semicap_000000000000_" + 43 * "A"},
        "revoked": {"X-API-Key": closed.revoked},
    }[presented]
    guarded = closed.api.only(lambda method, path, operation: "security" in operation)
    assert "/v1/captions" in guarded["paths"]
    check_all(closed.api, guarded, mode, headers=headers, examples=2, only_status=401)


@BOTH
@pytest.mark.parametrize("scope", [Scope.CAPTION, Scope.JOBS])
def test_a_key_of_another_scope_is_403(closed: Closed, mode: GenerationMode, scope: Scope) -> None:
    def is_forbidden(method: str, path: str, operation: dict[str, Any]) -> bool:
        return "security" in operation and scope not in wanted_scopes(method, path)

    forbidden = closed.api.only(is_forbidden)
    assert "/v1/models/rollback" in forbidden["paths"]
    check_all(closed.api, forbidden, mode, headers=closed.headers(scope), examples=2, only_status=403)
