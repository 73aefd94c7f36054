"""Keys, scopes, rates and origins at the real application's border."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.api.access import OPEN_PATHS, client_network, wanted_scopes
from service.api.origins import OriginRules
from service.errors import CommandError, UnknownHostError
from service.keys import KeyStore, Scope
from service.open_address import check_open_address
from service.server import server_config
from service.settings import Settings, read_settings
from tests.service import pictures
from tests.service.conftest import MakeClient, captions_scope

PHOTO = pictures.encoded(pictures.cat(), "JPEG")
JPEG = {"Content-Type": "image/jpeg"}
ORIGIN = "https://photos.example.org"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def secrets(data_dir: Path) -> dict[str, str]:
    """A key of each scope, one with a rate of its own, and a revoked one."""
    store = KeyStore(data_dir / "keys.json")
    made = {scope.value: store.create(scope, (scope,))[0] for scope in Scope}
    made["slow"] = store.create("slow", (Scope.CAPTION,), rate_limit="2/hour")[0]
    made["revoked"], revoked = store.create("revoked", (Scope.ADMIN,))
    store.revoke(revoked.id)
    return made


@pytest.fixture(scope="module")
def closed(make_client: MakeClient, data_dir: Path, secrets: dict[str, str]) -> TestClient:
    """An application that has keys."""
    return make_client(data_dir=data_dir, rate_limit="1000/second", cors_origins=ORIGIN)


def settles(condition: Callable[[], bool], *, within_s: float = 60.0) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_either_header_opens(closed: TestClient, secrets: dict[str, str], header: str) -> None:
    value = f"bearer {secrets['caption']}" if header == "Authorization" else secrets["caption"]
    response = closed.post("/v1/captions", content=PHOTO, headers={**JPEG, header: value})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer sk-none"}, {"Authorization": "Basic YTpi"}, {"X-API-Key": " "}]
)
def test_without_a_known_key_it_is_401(closed: TestClient, headers: dict[str, str]) -> None:
    response = closed.post("/v1/captions", content=PHOTO, headers={**JPEG, **headers})
    assert response.status_code == 401
    assert response.json()["type"] == "urn:semicap:problem:not-authenticated"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_revoked_key_is_401(closed: TestClient, secrets: dict[str, str]) -> None:
    assert closed.get("/v1/models", headers=bearer(secrets["revoked"])).status_code == 401


@pytest.mark.parametrize("path", ["/", "/web/main.js", "/docs", "/openapi.json", "/health/live", "/metrics"])
def test_page_documentation_and_health_need_no_key(closed: TestClient, path: str) -> None:
    assert closed.get(path).status_code == 200


def test_metrics_can_be_closed(make_client: MakeClient, data_dir: Path, secrets: dict[str, str]) -> None:
    closed = make_client(data_dir=data_dir, open_metrics=False)
    assert closed.get("/metrics").status_code == 401
    assert closed.get("/metrics", headers=bearer(secrets["jobs"])).status_code == 200


def test_everything_that_the_documentation_lists_needs_a_key_but_what_is_meant_to_be_open(
    closed: TestClient,
) -> None:
    listed = [
        (method, path)
        for path, methods in closed.get("/openapi.json").json()["paths"].items()
        for method in methods
    ]
    guarded = [one for one in listed if not one[1].startswith((*OPEN_PATHS, "/metrics"))]
    assert len(guarded) >= 3
    statuses = {(method, path): closed.request(method, path).status_code for method, path in guarded}
    assert set(statuses.values()) == {401}, statuses


def test_documentation_says_whether_a_key_is_needed(closed: TestClient, client: TestClient) -> None:
    def captions_of(service: TestClient) -> dict[str, Any]:
        operation: dict[str, Any] = service.get("/openapi.json").json()["paths"]["/v1/captions"]["post"]
        return operation

    assert captions_of(closed)["security"] == [{"bearer": []}, {"apiKey": []}]
    assert {} in captions_of(client)["security"]
    assert {"401", "403", "429"} <= set(captions_of(client)["responses"])
    assert "queue-full" in captions_of(client)["responses"]["429"]["description"]
    assert "rate-limited" in captions_of(client)["responses"]["429"]["description"]
    assert "security" not in closed.get("/openapi.json").json()["paths"]["/health/live"]["get"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/captions", {"caption", "admin"}),
        ("POST", "/v1/chat/completions", {"caption", "admin"}),
        ("POST", "/api/generate", {"caption", "admin"}),
        ("GET", "/v1/models", {"caption", "jobs", "admin"}),
        ("POST", "/v1/models/x/activate", {"admin"}),
        ("POST", "/v1/models/rollback", {"admin"}),
        ("POST", "/v1/jobs/finetunes", {"jobs", "admin"}),
        ("GET", "/v1/datasets/1", {"jobs", "admin"}),
        ("GET", "/some/thing/new", {"caption", "admin"}),
    ],
)
def test_each_route_wants_its_scope(
    closed: TestClient, secrets: dict[str, str], method: str, path: str, allowed: set[str]
) -> None:
    assert {scope for scope in Scope if scope in wanted_scopes(method, path)} | {"admin"} == allowed
    for scope in Scope:
        response = closed.request(method, path, headers=bearer(secrets[scope]))
        assert (response.status_code == 403) == (scope not in allowed), (scope, response.text)
        if scope not in allowed:
            assert "this needs the scope" in response.text  # an adapter says it in a shape of its own


def test_key_is_looked_at_before_the_body(closed: TestClient) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    assert closed.portal is not None
    closed.portal.call(closed.app, captions_scope(closed), receive, send)
    assert sent[0]["status"] == 401


def test_key_with_a_rate_of_its_own_gets_429_with_retry_after(
    closed: TestClient, secrets: dict[str, str]
) -> None:
    statuses = [closed.get("/v1/models", headers=bearer(secrets["slow"])) for _ in range(3)]
    assert [one.status_code for one in statuses] == [200, 200, 429]
    assert statuses[-1].json()["type"] == "urn:semicap:problem:rate-limited"
    assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 3600
    assert closed.get("/v1/models", headers=bearer(secrets["caption"])).status_code == 200
    assert 'semicap_requests_refused_total{reason="rate-limited"} 1.0' in closed.get("/metrics").text


def test_running_service_follows_its_keys(make_client: MakeClient, tmp_path: Path) -> None:
    running, store = make_client(data_dir=tmp_path), KeyStore(tmp_path / "keys.json")
    assert running.get("/v1/models", headers=bearer("sk-whatever-clients-send")).status_code == 200
    secret, key = store.create("a", (Scope.CAPTION,))
    assert settles(lambda: running.get("/v1/models").status_code == 401)
    assert running.get("/v1/models", headers=bearer(secret)).status_code == 200
    store.revoke(key.id)
    assert settles(lambda: running.get("/v1/models", headers=bearer(secret)).status_code == 401)


def test_without_keys_each_address_has_the_rate(make_client: MakeClient, tmp_path: Path) -> None:
    open_to_all = make_client(data_dir=tmp_path, rate_limit="2/hour")
    assert [open_to_all.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
    assert open_to_all.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_client_is_told_by_what_it_cannot_change_at_will(host: str, network: str) -> None:
    assert client_network({"client": (host, 1)}) == network
    assert client_network({"client": None}) == "unknown"


def test_other_origins_are_not_answered_unless_named(closed: TestClient, client: TestClient) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key",
    }
    allowed = closed.options("/v1/captions", headers=asked)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert "Access-Control-Allow-Origin" not in client.options("/v1/captions", headers=asked).headers
    other = closed.options("/v1/captions", headers={**asked, "Origin": "https://evil.example"})
    assert other.status_code == 400
    refused = closed.post("/v1/captions", content=PHOTO, headers={**JPEG, "Origin": ORIGIN})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)


EVIL = "https://evil.example"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://testserver:3000"},  # another service of this machine
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/captions", "/v1/models/semicap-small/activate", "/v1/models/rollback"])
def test_page_of_another_site_changes_and_computes_nothing(
    client: TestClient, path: str, headers: dict[str, str]
) -> None:
    answer = client.post(path, content=b"{}", headers={"Content-Type": "text/plain", **headers})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:semicap:problem:foreign-page")
    assert "SEMICAP_CORS_ORIGINS" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://testserver"},
        {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_own_page_and_clients_that_are_no_page_are_answered(
    client: TestClient, headers: dict[str, str]
) -> None:
    assert client.post("/v1/captions", content=PHOTO, headers={**JPEG, **headers}).status_code == 200


@pytest.mark.parametrize("named", [ORIGIN, "*"])
def test_page_that_the_operator_has_named_is_answered(
    make_client: MakeClient, tmp_path: Path, named: str
) -> None:
    open_to_one = make_client(data_dir=tmp_path, cors_origins=named)
    headers = {**JPEG, "Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}
    assert open_to_one.post("/v1/captions", content=PHOTO, headers=headers).status_code == 200


def test_where_keys_are_required_the_key_decides(closed: TestClient, secrets: dict[str, str]) -> None:
    headers = {**JPEG, **bearer(secrets["caption"]), "Origin": EVIL, "Host": "captions.example.org"}
    assert closed.post("/v1/captions", content=PHOTO, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/models", "/docs", "/metrics", "/health/live"])
def test_page_cannot_reach_the_service_by_a_name_of_its_own(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"Host": "rebind.attacker.example:8000"})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:semicap:problem:unknown-host")
    assert "SEMICAP_HOSTS" in answer.json()["detail"]


KNOWN_HOSTS = (
    "127.0.0.1:8000",
    "[::1]:8000",
    "[::ffff:127.0.0.1]",
    "192.0.2.1",
    "localhost:8000",
    "LOCALHOST.",
    "app.localhost",
    "api:8000",
    "host.docker.internal:8000",
)


@pytest.mark.parametrize("host", KNOWN_HOSTS)
def test_addresses_and_names_that_nobody_else_can_have_are_known(client: TestClient, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "host", "is_known"),
    [
        ({"hosts": "captions.example.org, photos.lan"}, "Photos.LAN:8000", True),
        ({"hosts": "captions.example.org"}, "photos.lan", False),
        ({"hosts": "*"}, "photos.lan", True),
        ({"open_access": True}, "photos.lan", True),
        ({"open_access": True, "hosts": "localhost"}, "photos.lan", False),
        ({"open_access": True, "hosts": "localhost"}, "api:8000", True),
    ],
)
def test_operator_says_by_which_names_the_service_is_called(
    settings: dict[str, Any], host: str, is_known: bool
) -> None:
    rules = OriginRules.of(Settings(**settings))
    scope = {"method": "GET", "headers": [(b"host", host.encode())]}
    with nullcontext() if is_known else pytest.raises(UnknownHostError):
        rules.check(scope)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host: str, tmp_path: Path) -> None:
    check_open_address(Settings(host=host, data_dir=tmp_path))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "no.such.host.invalid"])
def test_address_that_others_reach_needs_a_key_or_the_operators_word(host: str, tmp_path: Path) -> None:
    settings = Settings(host=host, data_dir=tmp_path)
    with pytest.raises(CommandError, match=r"semicap keys create.*SEMICAP_OPEN_ACCESS"):
        check_open_address(settings)
    check_open_address(Settings(host=host, data_dir=tmp_path, open_access=True))
    KeyStore(settings.keys_file).create("a", (Scope.CAPTION,))
    check_open_address(settings)


@pytest.mark.parametrize("rate", ["often", "", "0/minute", "5/fortnight"])
def test_rate_that_means_nothing_is_named(rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMICAP_RATE_LIMIT", rate)
    with pytest.raises(CommandError, match="SEMICAP_RATE_LIMIT"):
        read_settings()


@pytest.mark.parametrize(
    "variables",
    [
        {"SEMICAP_REDIS_URL": "redis+tls://:s3cret@broker"},
        {"SEMICAP_REDIS_URL": "redis://:s3cret#more@broker:6379"},
        {"SEMICAP_REDIS_URL": "redis://:s3cret[@broker:6379"},
        {"SEMICAP_WEBHOOK_SECRET": "s3cret"},
        {"SEMICAP_REDIS_URL": "redis://:s3cret@broker", "SEMICAP_MAX_QUEUED_IMAGES": "1"},
    ],
)
def test_wrong_setting_is_named_without_what_is_secret(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as untold:
        Settings()
    with pytest.raises(CommandError) as told:
        read_settings()
    assert "s3cret" not in f"{untold.value} {told.value}"
    named = next(iter(variables)) if len(variables) == 1 else "max_queued_images"
    assert named in str(told.value)


@pytest.mark.parametrize(("trusted", "client"), [("", "192.0.2.7"), ("192.0.2.7", "203.0.113.9")])
def test_only_a_named_proxy_is_believed(trusted: str, client: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(client_network(scope))

    config = server_config(app, Settings(trusted_proxies=trusted))
    config.load()
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    asyncio.run(
        config.loaded_app({"type": "http", "client": ("192.0.2.7", 1), "headers": headers}, None, None)
    )
    assert seen == [client]
