"""The registry of model versions on a real store."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from models.checkpoint import load_captioner
from models.manifest import CheckpointError, read_manifest
from service.errors import (
    InvalidModelNameError,
    ModelConflictError,
    ModelGateError,
    ModelInUseError,
    ModelNotFoundError,
    NoEarlierModelError,
)
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry, shipped_version
from service.settings import Settings
from tests.tiny import tiny_checkpoint

REFUSED = {
    "passed": False,
    "checks": [
        {"name": "second_r@1", "before": 0.31, "after": 0.12, "limit": 0.29, "passed": False},
        {"name": "distinct", "before": 0.9, "after": 0.95, "limit": 0.8, "passed": True},
    ],
    "reason": "retrieval by the second scorer fell",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of one name, each with weights of its own; the third was made from the second."""
    folder = tmp_path_factory.mktemp("versions")
    first, second = (tiny_checkpoint(folder / str(seed), seed=seed) for seed in (1, 2))
    parent = read_manifest(second).version
    return [first, second, tiny_checkpoint(folder / "3", seed=3, parent=parent)]


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return registry_in(tmp_path)


def registry_in(folder: Path, **more: Any) -> ModelRegistry:
    return ModelRegistry(ArtifactStore.open(str(folder / "store")), folder / "cache", **more)


def ids(registry: ModelRegistry) -> set[str]:
    return {one.id for one in registry.versions()} - {shipped_version().id}


def test_shipped_model_is_always_there_and_leaves_no_folder(tmp_path: Path) -> None:
    registry = ModelRegistry.reading(Settings(data_dir=tmp_path / "data"))
    (shipped,) = registry.versions()
    assert shipped.origin == "shipped"
    assert registry.find(shipped.name) == registry.find(shipped.version) == shipped
    assert registry.card(shipped).startswith("#")
    assert registry.active() is None
    load_captioner(registry.folder(shipped))
    assert not (tmp_path / "data").exists()


def test_published_version_is_found_by_each_of_its_names_and_can_be_loaded(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    report = {"second_r@1": 0.5}
    version = registry.publish(
        checkpoints[2], origin="finetuned", job="job-1", report=report, report_html=b"<p>", gate=REFUSED
    )
    manifest = read_manifest(checkpoints[2])
    assert (version.id, version.parent) == (f"tiny:{manifest.version}", manifest.provenance.parent)
    for wanted in (version.id, f"tiny/{version.version}", "tiny", version.version):
        assert registry.find(wanted) == version
    assert (version.origin, version.job, version.gate) == ("finetuned", "job-1", REFUSED)
    assert (registry.report(version), registry.report_html(version)) == (b'{"second_r@1": 0.5}', b"<p>")
    assert "Random weights" in registry.card(version)
    captioner = load_captioner(registry.folder(version))
    assert version.scorer == (captioner.clip.name, captioner.clip.revision)
    assert version.embedding_numbers == captioner.clip.embed_dim
    with pytest.raises(ModelNotFoundError, match=version.id):
        registry.find("nothing")


def test_name_means_its_newest_version_and_publishing_again_changes_nothing(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    first = registry.publish(checkpoints[0], origin="imported")
    second = registry.publish(checkpoints[1], origin="imported")
    assert registry.publish(checkpoints[0], origin="finetuned", job="job-2") == first
    assert registry.find("tiny") == second
    assert ids(registry) == {first.id, second.id}
    shipped = registry.publish(registry.folder(shipped_version()), origin="imported")
    assert shipped.origin == "shipped"


def test_same_weights_with_another_clip_are_refused(
    registry: ModelRegistry, checkpoints: list[Path], tmp_path: Path
) -> None:
    registry.publish(checkpoints[0], origin="imported")
    other = shutil.copytree(checkpoints[0], tmp_path / "other")
    shutil.copytree(checkpoints[1] / "clip", other / "clip", dirs_exist_ok=True)
    with pytest.raises(ModelConflictError, match="another CLIP"):
        registry.publish(other, origin="imported")


def test_what_is_no_checkpoint_is_refused_and_leaves_nothing(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        registry.publish(tmp_path / "empty", origin="imported")
    with pytest.raises(InvalidModelNameError, match="cannot name a model"):
        registry.add("../x", lambda folder: pytest.fail("nothing is written"))
    assert ids(registry) == set()


def test_version_in_a_bucket_is_fetched_once_and_checked(tmp_path: Path, checkpoints: list[Path]) -> None:
    store = ArtifactStore(MemoryStore())
    registry = ModelRegistry(store, tmp_path / "cache")
    version = registry.publish(checkpoints[0], origin="imported")
    folder = registry.folder(version)
    assert folder.is_relative_to(tmp_path / "cache")
    assert load_captioner(folder).tokenizer is not None
    assert registry.folder(version) == folder
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [folder.name]

    shutil.rmtree(folder)
    weights = next(file for file in version.files if file.path == "model.safetensors")
    store.put(f"{version.place}/checkpoint/{weights.path}", bytes(weights.num_bytes))
    with pytest.raises(CheckpointError, match=r"model\.safetensors of tiny:.* is damaged"):
        registry.folder(version)
    assert not list((tmp_path / "cache").iterdir())


def test_damaged_or_lost_file_of_a_folder_store_is_named(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    version = registry.publish(checkpoints[0], origin="imported")
    file = registry.folder(version) / "clip" / "open_clip_model.safetensors"
    fresh = ModelRegistry(registry._store, file.parent)
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        fresh.folder(version)
    file.unlink()
    with pytest.raises(CheckpointError, match="has lost clip/open_clip_model"):
        fresh.folder(version)


def test_activations_are_a_history_that_is_rolled_back_step_by_step(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    versions = [registry.publish(folder, origin="imported") for folder in checkpoints]
    for version in (*versions, versions[2]):  # twice the same is one step
        assert registry.activate(version.id).model == version.id
    active = registry.active()
    assert active is not None
    assert active.model == versions[2].id
    for expected in (versions[1].id, versions[0].id, shipped_version().id):
        assert registry.rollback_target().id == expected
        assert registry.rollback().model == expected
    with pytest.raises(NoEarlierModelError):
        registry.rollback()
    registry.activate(versions[1].id)
    assert registry.rollback().model == shipped_version().id


def test_rollback_passes_over_a_version_that_was_deleted(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    first, second = (registry.publish(folder, origin="imported") for folder in checkpoints[:2])
    registry.activate(first.id)
    registry.activate(second.id)
    registry.delete(first.id)
    assert registry.rollback().model == shipped_version().id


def test_version_that_failed_its_gate_is_activated_by_override_only(
    registry: ModelRegistry, checkpoints: list[Path]
) -> None:
    version = registry.publish(checkpoints[0], origin="finetuned", gate=REFUSED)
    with pytest.raises(ModelGateError, match=r"second_r@1: before 0\.31, after 0\.12, limit 0\.29") as caught:
        registry.activate(version.id)
    assert "distinct" not in caught.value.detail
    assert caught.value.extensions["gate"] == REFUSED
    assert registry.active() is None
    assert registry.activate(version.id, override=True).model == version.id


def test_what_is_in_use_is_not_deleted(tmp_path: Path, checkpoints: list[Path]) -> None:
    used: dict[str, str] = {}
    registry = registry_in(tmp_path, used=lambda: used)
    first, parent, child = (registry.publish(folder, origin="imported") for folder in checkpoints)

    def refused(version: str, reason: str) -> None:
        with pytest.raises(ModelInUseError, match=reason):
            registry.delete(version)

    refused(shipped_version().id, "comes along")
    registry.activate(child.id)
    refused(child.id, "is active")
    refused(parent.id, f"is the parent of {child.id}, which is active")
    registry.set_alias("best", first.id)
    refused(first.id, "alias 'best'")
    registry.delete_alias("best")
    used[first.id] = "is what the job job-1 captions with"
    refused(first.id, "job-1")
    assert ids(registry) == {first.id, parent.id, child.id}

    used.clear()
    registry.delete(first.id)
    registry.rollback()
    registry.delete(parent.id)
    registry.delete(child.id)
    assert ids(registry) == set()
    assert not [path for path in (tmp_path / "store" / "models" / "content").rglob("*") if path.is_file()]
    with pytest.raises(ModelNotFoundError):
        registry.delete(child.id)
    assert registry.publish(checkpoints[0], origin="imported").id == first.id


def test_alias_means_a_version_until_it_is_moved(registry: ModelRegistry, checkpoints: list[Path]) -> None:
    first, second = (registry.publish(folder, origin="imported") for folder in checkpoints[:2])
    registry.set_alias("museum", first.version)
    assert registry.find("museum") == first
    registry.set_alias("museum", second.id)
    assert registry.find("museum") == second
    assert registry.state().aliases == {"museum": second.id}
    for alias in ("tiny", first.version, "rollback", "a:b", ""):
        with pytest.raises(InvalidModelNameError):
            registry.set_alias(alias, first.id)
    with pytest.raises(ModelNotFoundError):
        registry.set_alias("other", "nothing")
    registry.delete_alias("museum")
    with pytest.raises(ModelNotFoundError, match="no alias 'museum'"):
        registry.delete_alias("museum")


_KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry

def publish(root, checkpoint, *, kill_before):
    writes = []
    for name in ("put", "create", "write"):
        def counted(self, key, data, real=getattr(ArtifactStore, name)):
            if len(writes) == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            writes.append(key)
            return real(self, key, data)
        setattr(ArtifactStore, name, counted)
    registry = ModelRegistry(ArtifactStore.open(str(root / "store")), root / "cache")
    registry.publish(checkpoint, origin="finetuned", report={"a": 1}, report_html=b"<p>")
    os._exit(0)

root, checkpoint, was_killed, step = Path(sys.argv[1]), Path(sys.argv[2]), True, 0
while was_killed:
    child = os.fork()
    if child == 0:
        publish(root / str(step), checkpoint, kill_before=step)
    was_killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    step += 1
print(step)
"""


@pytest.mark.slow
def test_publication_killed_before_any_of_its_writes_leaves_nothing_half(
    tmp_path: Path, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(tmp_path), str(checkpoints[0])]
    command = [sys.executable, "-W", "ignore", "-c", _KILLED_WHILE_PUBLISHING, *folders]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    num_files = sum(path.is_file() for path in checkpoints[0].rglob("*"))
    *killed, unharmed = range(int(ran.stdout))
    assert len(killed) == num_files + 3  # two reports, and the document that makes it a version
    assert len(ids(registry_in(tmp_path / str(unharmed)))) == 1
    for step in killed:
        registry = registry_in(tmp_path / str(step))
        assert ids(registry) == set()
        version = registry.publish(checkpoints[0], origin="finetuned")
        load_captioner(registry.folder(version))
        monkeypatch.setattr("service.model_files.ABANDONED_S", -1.0)
        registry.sweep()
        content = (tmp_path / str(step) / "store" / "models" / "content").rglob("*")
        assert sum(path.is_file() for path in content) == num_files


def test_deletion_that_was_cut_short_is_ended_by_a_sweep_or_a_publication(
    registry: ModelRegistry, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: ModelRegistry, id: str) -> None:
        raise KeyboardInterrupt

    version = registry.publish(checkpoints[1], origin="imported")
    for mend in (registry.sweep, lambda: registry.publish(checkpoints[1], origin="imported")):
        version = registry.publish(checkpoints[1], origin="imported")
        with monkeypatch.context() as patch:
            patch.setattr(ModelRegistry, "_remove", killed)
            with pytest.raises(KeyboardInterrupt):
                registry.delete(version.id)
        assert ids(registry) == set()
        mend()
        assert registry.state().deleting == ()
    assert ids(registry) == {version.id}


def test_changes_of_many_at_once_are_all_kept(tmp_path: Path, checkpoints: list[Path]) -> None:
    version = registry_in(tmp_path).publish(checkpoints[0], origin="imported")

    def name(number: int) -> None:
        registry_in(tmp_path).set_alias(f"alias-{number}", version.id)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(name, range(16)))
    assert registry_in(tmp_path).state().aliases == {f"alias-{number}": version.id for number in range(16)}


def test_two_publications_of_one_version_at_once_leave_one(tmp_path: Path, checkpoints: list[Path]) -> None:
    def publish(number: int) -> str:
        return registry_in(tmp_path).publish(checkpoints[0], origin="imported").place

    with ThreadPoolExecutor(4) as threads:
        places = set(threads.map(publish, range(4)))
    assert len(places) == 1
    content = tmp_path / "store" / "models" / "content"
    assert [place.name for place in content.iterdir() if any(place.rglob("*.json"))] == [
        places.pop().rpartition("/")[2]
    ]
