"""A store with a tiny model, photos, and what a run needs to be told."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.manifest import SECOND_SCORER
from service.finetuning.gate_limits import GateLimits
from service.finetuning.settings import FinetuneSettings
from service.finetuning.task import Task
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import Dataset, new_id
from service.jobs.store import ArtifactStore
from service.model_registry import ModelRegistry
from service.model_versions import ModelVersion
from tests.service import pictures
from tests.tiny import WORDS

QUICK = {"steps": 4, "batch_size": 8, "samples": 2, "evaluate_every": 2, "lr": 1e-4}
"""Settings that let a tiny run take a second."""

LOOSE = GateLimits(100.0, 100.0, 100.0, 100.0, 1000.0, 100.0)
"""Limits that random weights cannot miss."""


def photo_dataset(
    store: ArtifactStore, count: int, *, captioned: bool = False, others: Mapping[str, bytes] | None = None
) -> Dataset:
    """Different photos in the store; others by name."""
    writer = DatasetWriter(store, max_items=10_000)
    lines = []
    for number, data in enumerate(pictures.photos(count, edge=40)):
        writer.add_photo(f"album/{number}.jpg", data)
        words = [WORDS[(number + step) % len(WORDS)] for step in range(4)]
        lines.append({"file_name": f"album/{number}.jpg", "captions": [" ".join(words)]})
    for name, data in (others or {}).items():
        writer.add_photo(name, data)
    if captioned:
        writer.add_captions(f"{json.dumps(line)}\n".encode() for line in lines)
    return writer.finish()


def published(root: Path, checkpoint: Path) -> ModelVersion:
    """A checkpoint in the registry of the store below a data folder."""
    return registry_of(root).publish(checkpoint, origin="imported")


def registry_of(root: Path) -> ModelRegistry:
    return ModelRegistry(store_of(root), root / "model-cache")


def store_of(root: Path) -> ArtifactStore:
    return ArtifactStore.open(str(root / "store"))


def task_on(root: Path, dataset: Dataset, base: ModelVersion, **more: Any) -> Task:
    """A quick run below a data folder."""
    settings = FinetuneSettings.model_validate({**QUICK, **more.pop("settings", {})}).model_dump()
    fields: dict[str, Any] = {
        "job": new_id("job"),
        "store": str(root / "store"),
        "dataset": dataset.id,
        "replay_dataset": None,
        "base": base.id,
        "models_cache": str(root / "model-cache"),
        "auto_activate": False,
        "second_scorer": str(SECOND_SCORER),
        "settings": settings,
        "gate": LOOSE,
        "device": "cpu",
        "threads": 1,
        "decode_threads": 2,
        "max_image_bytes": 1_000_000,
        "max_image_pixels": 1_000_000,
        "save_every_minutes": 60.0,
    }
    return Task(**{**fields, **more})
