"""Versions change places in the running application: nothing is dropped, refused or mixed."""

import base64
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from models.captioner import Captioner
from models.manifest import CheckpointError
from service.api.app import create_app
from service.errors import CommandError, QueueFullError
from service.jobs.store import ArtifactStore
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry, shipped_version
from service.registry import load_failure, load_served_model
from service.serving import Handover
from service.settings import Settings
from tests.browser.served import served
from tests.service import pictures
from tests.service.conftest import parts_of
from tests.tiny import tiny_checkpoint

PHOTOS = pictures.photos(6)
GREEDY = "/v1/captions?strategy=greedy"
GATE = {
    "passed": False,
    "checks": [{"name": "second_r@1", "before": 0.31, "after": 0.12, "limit": 0.29, "passed": False}],
    "reason": "retrieval by the second scorer fell",
}
WAIT_S = 20


class Versions:
    """A store of its own with two tiny versions, the first of them active."""

    def __init__(self, folder: Path) -> None:
        self.registry = ModelRegistry(ArtifactStore.open(str(folder / "store")), folder / "cache")
        self.settings = Settings(data_dir=folder, precision="fp32")
        published = [
            self.registry.publish(tiny_checkpoint(folder / str(seed), seed=seed), origin="imported")
            for seed in (1, 2)
        ]
        self.first, self.second = published
        self.registry.activate(self.first.id)

    def app(self, **settings: Any) -> Any:
        model = load_served_model(self.registry.folder(self.first), device="cpu", entry=self.first)
        chosen = self.settings.model_copy(update=settings)
        return create_app(chosen, Handover(model), registry=self.registry)

    @contextmanager
    def client(self, **settings: Any) -> Iterator[TestClient]:
        with TestClient(self.app(**settings)) as client:
            yield client


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


def post(client: Any, *photos: bytes) -> Any:
    return client.post(GREEDY, files=[("image", ("photo.jpg", photo)) for photo in photos])


def active_ids(client: Any) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["data"] if model["is_active"]]


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def problem(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rpartition(":")[2]


def test_activated_version_answers_and_a_rollback_brings_the_one_before(versions: Versions) -> None:
    with versions.client() as client:
        before = post(client, PHOTOS[0]).json()
        activated = client.post(f"/v1/models/{versions.second.id}/activate")
        assert (activated.status_code, activated.json()["is_active"]) == (200, True)
        assert active_ids(client) == [versions.second.id]
        after = post(client, PHOTOS[0]).json()
        assert after["model"]["version"] == versions.second.version
        assert after["results"][0]["captions"] != before["results"][0]["captions"]
        assert client.get("/api/tags").json()["models"][0]["name"] == versions.second.id
        assert client.post("/v1/models/rollback").json()["id"] == versions.first.id
        again = post(client, PHOTOS[0]).json()
        assert again["model"] == before["model"]
        assert again["results"][0]["captions"] == before["results"][0]["captions"]
        assert client.post("/v1/models/rollback", json={}).json()["id"] == shipped_version().id
        assert problem(client.post("/v1/models/rollback")) == (409, "no-earlier-model")
        metrics = client.get("/metrics").text
        assert 'semicap_model_switches_total{outcome="switched"} 3.0' in metrics
        assert "semicap_model_load_seconds_count 3.0" in metrics
        assert f'version="{shipped_version().version}"' in metrics
        assert f'version="{versions.first.version}"' not in metrics


def test_adapter_answers_for_foreign_names_and_for_no_other_version_of_ours(versions: Versions) -> None:
    shipped = shipped_version()
    with versions.client() as client:
        models = parts_of(client).models
        for alias, id in (("own", versions.first.id), ("other", versions.second.id)):
            models.set_alias(alias, id)
        models.follow()
        for name in ("gpt-4o", "llava:13b", "own", "own:latest", versions.first.id):
            assert _answers_of_adapters(client, name) == [(200, "")] * 4, name
        others = ("other", "other:latest", versions.second.id, shipped.id, shipped.name, shipped.version)
        for name in others:
            answers = _answers_of_adapters(client, name)
            assert [status for status, _ in answers] == [404] * 4, name
            assert all(f"this service has {versions.first.id}" in text for _, text in answers)


def test_sixteen_clients_see_no_failure_and_no_mixture_while_versions_change(versions: Versions) -> None:
    with served(versions.app()) as address, connect(address) as asking:
        expected: dict[str, list[str]] = {}
        for version in (versions.first, versions.second):
            asking.post(f"/v1/models/{version.id}/activate").raise_for_status()
            expected[version.version] = _texts(post(asking, *PHOTOS).json())
        assert len({tuple(texts) for texts in expected.values()}) == 2
        ended = threading.Event()

        def ask(number: int) -> list[tuple[int, str, bool]]:
            seen = []
            with connect(address) as own:
                while not ended.is_set():
                    several = slice(0, 1 + number % len(PHOTOS))
                    answer = post(own, *PHOTOS[several])
                    version = answer.json().get("model", {}).get("version", "")
                    is_right = answer.is_success and _texts(answer.json()) == expected[version][several]
                    seen.append((answer.status_code, version, is_right))
            return seen

        with ThreadPoolExecutor(16) as clients:
            running = [clients.submit(ask, number) for number in range(16)]
            for _ in range(3):
                asking.post(f"/v1/models/{versions.first.id}/activate").raise_for_status()
                asking.post("/v1/models/rollback").raise_for_status()
            ended.set()
            seen = [one for each in running for one in each.result()]
        print(f"\n{len(seen)} answers by {sorted({version for _, version, _ in seen})} while 6 switches")
        assert {status for status, _, _ in seen} == {200}
        assert {version for _, version, _ in seen} == set(expected)
        assert all(is_right for _, _, is_right in seen)


def connect(address: str) -> httpx2.Client:
    """A connection for each request: the server may close one that is idle just when it is used again."""
    return httpx2.Client(base_url=address, timeout=WAIT_S, limits=httpx2.Limits(max_keepalive_connections=0))


def _texts(answer: Any) -> list[str]:
    return [result["captions"][0]["text"] for result in answer["results"]]


def test_every_replica_of_a_store_follows(versions: Versions) -> None:
    with versions.client() as one, versions.client() as other:
        one.post(f"/v1/models/{versions.second.id}/activate").raise_for_status()
        began = time.monotonic()
        wait_for(lambda: active_ids(other) == [versions.second.id], "the other replica does not follow")
        print(f"\nfollowed after {time.monotonic() - began:.1f} s")
        assert post(other, PHOTOS[0]).json() | {"id": 0, "timing": 0} == post(one, PHOTOS[0]).json() | {
            "id": 0,
            "timing": 0,
        }
        versions.registry.rollback()  # as the command line does it, on the store
        wait_for(lambda: active_ids(one) == active_ids(other) == [versions.first.id], "nobody follows")


def test_request_whose_body_is_still_coming_is_answered_by_one_version(versions: Versions) -> None:
    """Its place moves to the new engine, so that the old one is not kept for it."""
    with versions.client(max_queued_images=3, max_images_per_request=3) as client:
        switch = parts_of(client).models.switch
        old = weakref.ref(switch.current.model.captioner)
        with switch.reserve() as place:
            client.post(f"/v1/models/{versions.second.id}/activate").raise_for_status()
            switch.settle()
            wait_for(lambda: old() is None, "the old model stays in memory")
            bound = place.bind(3)
            assert bound.serving.model.id == versions.second.id
            assert bound.places.left == 3
            with pytest.raises(QueueFullError):
                switch.reserve()
        assert switch.current.engine.depth == 0


def test_places_on_the_old_engine_count_until_they_are_given_back(versions: Versions) -> None:
    with versions.client(max_queued_images=3, max_images_per_request=3) as client:
        switch = parts_of(client).models.switch
        with switch.reserve() as place:
            bound = place.bind(2)
            client.post(f"/v1/models/{versions.second.id}/activate").raise_for_status()
            assert switch.current is not bound.serving
            assert "semicap_queue_depth 2.0" in client.get("/metrics").text
            with switch.reserve(), pytest.raises(QueueFullError, match="3"):
                switch.reserve()
            assert post(client, PHOTOS[0]).status_code == 200
            assert post(client, *PHOTOS[:2]).status_code == 429
        switch.settle()
        assert post(client, *PHOTOS[:3]).status_code == 200
        assert "semicap_queue_depth 0.0" in client.get("/metrics").text


def test_version_that_cannot_be_loaded_leaves_the_old_one_answering(versions: Versions) -> None:
    weights = versions.registry.folder(versions.second) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    versions.registry._files._checked.clear()
    with versions.client() as client:
        refused = client.post(f"/v1/models/{versions.second.id}/activate")
        assert problem(refused) == (409, "model-not-loadable")
        detail = refused.json()["detail"]
        assert f"model.safetensors of {versions.second.id} is damaged" in detail
        assert f"{versions.first.id} still answers" in detail
        assert active_ids(client) == [versions.first.id]
        assert post(client, PHOTOS[0]).status_code == 200
        assert client.get("/health/ready").status_code == 200
        assert 'semicap_model_switches_total{outcome="failed"} 1.0' in client.get("/metrics").text


def test_version_that_does_not_run_leaves_the_old_one_answering(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with versions.client() as client:

        def fail(captioner: Captioner, **_: Any) -> None:
            raise RuntimeError("out of memory at /srv/secret")

        monkeypatch.setattr("service.engine.engine.warm_up", fail)
        refused = client.post(f"/v1/models/{versions.second.id}/activate")
        assert problem(refused) == (409, "model-not-loadable")
        assert "secret" not in refused.text
        assert post(client, PHOTOS[0]).json()["model"]["version"] == versions.first.version
        assert client.get("/health/ready").status_code == 200


def test_gate_is_passed_by_override_only(versions: Versions, tmp_path: Path) -> None:
    refused = versions.registry.publish(
        tiny_checkpoint(tmp_path / "3", seed=3, parent=versions.first.version),
        origin="finetuned",
        job="job-1",
        gate=GATE,
        report={"second_r@1": [0.31, 0.12]},
        report_html=b"<!doctype html><p>before and after",
    )
    with versions.client() as client:
        address = f"/v1/models/{refused.id}"
        answer = client.post(f"{address}/activate")
        assert problem(answer) == (409, "model-gate-refused")
        assert "second_r@1: before 0.31, after 0.12, limit 0.29" in answer.json()["detail"]
        assert answer.json()["gate"] == GATE
        shown = client.get(address).json()
        assert (shown["gate"]["passed"], shown["parent"], shown["job"]) == (
            False,
            versions.first.version,
            "job-1",
        )
        assert client.get(shown["links"]["report"]).json() == {"second_r@1": [0.31, 0.12]}
        page = client.get(shown["links"]["report_html"])
        assert (page.text[:9], page.headers["content-type"]) == ("<!doctype", "text/html; charset=utf-8")
        assert "sandbox" in page.headers["content-security-policy"]
        assert problem(client.get(f"/v1/models/{versions.first.id}/report")) == (404, "not-found")
        assert client.post(f"{address}/activate", json={"override": True}).json()["id"] == refused.id


def test_what_answers_or_is_its_parent_is_not_deleted_over_http(versions: Versions) -> None:
    with versions.client() as client:
        assert problem(client.delete(f"/v1/models/{versions.first.id}")) == (409, "model-in-use")
        assert client.delete(f"/v1/models/{versions.second.id}").status_code == 204
        assert problem(client.get(f"/v1/models/{versions.second.id}")) == (404, "model-not-found")
        assert problem(client.delete(f"/v1/models/{shipped_version().id}")) == (409, "model-in-use")


def test_alias_is_a_name_of_the_version_that_it_means(versions: Versions) -> None:
    with versions.client() as client:
        put = client.put("/v1/models/aliases/museum", json={"model": versions.first.version})
        assert put.json()["aliases"] == ["museum"]
        assert post_model(client, "museum").json()["model"]["version"] == versions.first.version
        client.put("/v1/models/aliases/museum", json={"model": versions.second.id}).raise_for_status()
        assert problem(post_model(client, "museum")) == (404, "model-not-found")
        assert client.post("/v1/models/museum/activate").json()["id"] == versions.second.id
        assert post_model(client, "museum").status_code == 200
        assert problem(client.delete(f"/v1/models/{versions.second.id}")) == (409, "model-in-use")
        assert problem(client.put("/v1/models/aliases/tiny", json={"model": "tiny"})) == (
            422,
            "invalid-model-name",
        )
        assert client.delete("/v1/models/aliases/museum").status_code == 204
        assert problem(client.delete("/v1/models/aliases/museum")) == (404, "model-not-found")


def post_model(client: Any, model: str) -> Any:
    return client.post(f"{GREEDY}&model={model}", content=PHOTOS[0], headers={"Content-Type": "image/jpeg"})


def test_service_that_is_set_to_one_model_neither_follows_nor_activates(versions: Versions) -> None:
    with versions.client(checkpoint=Path(versions.first.id)) as client:
        answer = client.post(f"/v1/models/{versions.second.id}/activate")
        assert problem(answer) == (409, "model-pinned")
        assert "SEMICAP_CHECKPOINT" in answer.json()["detail"]
        assert problem(client.post("/v1/models/rollback")) == (409, "model-pinned")
        versions.registry.activate(versions.second.id)
        parts_of(client).models.follow()
        assert active_ids(client) == [versions.first.id]
        assert client.delete(f"/v1/models/{versions.first.id}").status_code == 409


def test_active_version_that_is_lost_is_answered_for_by_the_one_before(versions: Versions) -> None:
    versions.registry.activate(versions.second.id)
    weights = versions.registry.folder(versions.second) / "model.safetensors"
    weights.unlink()
    fresh = ModelRegistry(versions.registry._store, Path("none"))
    model, choice = load_chosen(fresh, versions.settings)
    assert (model.id, choice.is_pinned) == (versions.first.id, False)
    with pytest.raises(CommandError, match="has lost model"):
        load_chosen(fresh, versions.settings.model_copy(update={"checkpoint": Path(versions.second.id)}))


def test_format_that_the_processor_lacks_ends_the_start_in_one_line(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.speed.can_pack", lambda precision: False)
    wanted = versions.settings.model_copy(update={"precision": "int8"})
    with pytest.raises(CommandError, match="SEMICAP_PRECISION is int8: this processor cannot run the model"):
        load_chosen(versions.registry, wanted)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "config.json is damaged"),
        ("model.safetensors", "model.safetensors is damaged"),
        ("clip/open_clip_model.safetensors", "a CLIP that cannot be loaded"),
    ],
)
def test_reason_that_callers_read_names_no_folder_of_this_machine(
    file: str, said: str, tmp_path: Path
) -> None:
    folder = tiny_checkpoint(tmp_path / "Anna's private photos" / "damaged")
    (folder / file).write_bytes(b"cut off")
    with pytest.raises(CheckpointError) as raised:
        load_served_model(folder, device="cpu")
    assert str(folder) in str(raised.value)
    reason = load_failure(raised.value)
    assert said in reason
    assert "Anna" not in reason
    assert "private" not in reason


def test_reason_that_callers_read_has_no_words_of_an_error_that_is_not_ours(tmp_path: Path) -> None:
    assert load_failure(RuntimeError(f"{tmp_path}/secret")) == "the service's log has the reason"


def _answers_of_adapters(client: Any, model: str) -> list[tuple[int, str]]:
    """Status and error of each adapter, the error from where its protocol has it."""
    photo = base64.b64encode(PHOTOS[0]).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{photo}"}}]
    chat = {"model": model, "messages": [{"role": "user", "content": content}]}
    openai = client.post("/v1/chat/completions", json=chat)
    ollama = client.post("/api/generate", json={"model": model, "images": [photo], "stream": False})
    vision = client.post("/api/v1/vision/caption", json={"model": model, "images": [photo]})
    task = client.post(f"/models/{model}", content=PHOTOS[0])
    texts = (
        [answer.json()["error"] for answer in (ollama, vision, task)] if not openai.is_success else [""] * 3
    )
    text = "" if openai.is_success else openai.json()["error"]["message"]
    answers = (openai, ollama, vision, task)
    return [(answer.status_code, one) for answer, one in zip(answers, [text, *texts], strict=True)]
