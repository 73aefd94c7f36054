"""The end of a run: its model becomes a version of the registry, and answers if it may."""

import json
from pathlib import Path

from service.errors import ServiceError
from service.finetuning.gate import Verdict
from service.finetuning.task import Ending, RunFolder, Task
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry


def open_registry(task: Task) -> ModelRegistry:
    """The registry of the task's store."""
    return ModelRegistry(ArtifactStore.open(task.store), Path(task.models_cache))


def publish(registry: ModelRegistry, task: Task, folder: RunFolder, verdict: Verdict) -> Ending:
    """Publishes what a run has made, whatever the verdict; activates it where asked to, if it passed."""
    gate = verdict.to_dict()
    made = registry.publish(
        folder.model,
        origin="finetuned",
        job=task.job,
        report=json.loads(folder.report.read_text(encoding="utf-8")),
        report_html=folder.page.read_bytes(),
        gate=gate,
    )
    if not task.auto_activate or not verdict.passed:
        return Ending(model=made.id, gate=gate)
    try:
        registry.activate(made.id)
    except ServiceError as error:
        return Ending(model=made.id, gate=gate, note=f"not activated: {error}")
    return Ending(model=made.id, gate=gate, is_activated=True)
