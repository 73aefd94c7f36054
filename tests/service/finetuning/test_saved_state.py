"""A training state in the store, for a worker whose disk has none."""

from pathlib import Path

from service.finetuning.saved_state import SavedStates, local_step
from service.finetuning.task import RunFolder
from service.jobs.store import ArtifactStore


def trained(root: Path, step: int) -> RunFolder:
    folder = RunFolder(root)
    state = folder.training / "states" / f"step-{step:08d}"
    state.mkdir(parents=True)
    (state / "state.safetensors").write_bytes(bytes(700_000))
    (state / "state.json").write_text(f'{{"step": {step}}}')
    (folder.training / "log.jsonl").write_text("a line\n")
    (folder.training / "data.json").write_text("{}")
    return folder


def test_state_travels_to_another_disk_and_only_the_last_is_kept(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "store"))
    states = SavedStates(store, "job-1", 1)
    here = trained(tmp_path / "here", 20)
    assert states.keep(here) == 20
    trained(tmp_path / "here", 40)
    assert (states.keep(here), states.keep(here)) == (40, 40)
    assert len(store.keys("jobs/job-1/states")) == 1

    there = RunFolder(tmp_path / "there")
    there.root.mkdir()
    SavedStates(store, "job-1", 2).bring(there)
    assert local_step(there) is None, "another attempt begins anew"
    states.bring(there)
    assert local_step(there) == 40
    state = there.training / "states" / "step-00000040"
    assert (state / "state.safetensors").read_bytes() == bytes(700_000)
    assert (there.training / "log.jsonl").read_text() == "a line\n"
    states.drop()
    assert store.keys("jobs/job-1/states") == []


def test_newer_state_on_the_disk_stays(tmp_path: Path) -> None:
    states = SavedStates(ArtifactStore.open(str(tmp_path / "store")), "job-1", 1)
    states.keep(trained(tmp_path / "old", 20))
    newer = trained(tmp_path / "new", 30)
    states.bring(newer)
    assert local_step(newer) == 30
