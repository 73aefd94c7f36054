"""What the store knows of a model version, and what it keeps of which one is active."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from models.clip_folder import clip_facts
from models.manifest import WEIGHTS_FILE, read_manifest
from service.jobs.documents import Document

Origin = Literal["shipped", "imported", "finetuned", "folder"]
"""It comes along, was imported, was made by a fine-tuning job, or is the folder in SEMICAP_CHECKPOINT."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

RESERVED = frozenset({"active", "aliases", "latest", "rollback"})
"""No aliases: addresses of the API have them, or clients add them."""

KEPT_HISTORY = 50
"""Activations that a rollback can go back."""

MAX_ALIASES = 100


class StoredFile(Document):
    """One file of a checkpoint in the store."""

    path: str
    sha256: str
    num_bytes: int


class ModelVersion(Document):
    """One version of a model.

    Args:
        parent: version that it was trained from.
        job: the fine-tuning job that made it.
        gate: {"passed", "checks": [{"name", "before", "after", "limit", "passed"}], "reason"}; None where
            nothing was measured.
        scorer: name and revision of its CLIP.
        embedding_numbers: length of its CLIP's embedding.
        place: where the store holds its files; none for what it does not hold.
    """

    name: str
    version: str
    created: datetime
    origin: Origin
    stage: str
    step: int = 0
    parent: str | None = None
    job: str | None = None
    gate: dict[str, Any] | None = None
    has_report: bool = False
    num_bytes: int
    scorer: tuple[str, str]
    embedding_numbers: int
    place: str = ""
    files: tuple[StoredFile, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}:{self.version}"


class RegistryState(Document):
    """Which version is active and what came before: one of a series of documents, the last one is true.

    Args:
        active: id of a version; None is the one that comes along.
        history: what a rollback goes back to, the latest last.
        aliases: ids by alias.
        deleting: ids whose files are being removed.
    """

    number: int = 0
    changed: datetime | None = None
    active: str | None = None
    history: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)
    deleting: tuple[str, ...] = ()


class Activation(Document):
    """What answers when no model is named.

    Args:
        number: grows with every change of the registry.
    """

    model: str
    number: int
    changed: datetime | None


def version_of(folder: Path, *, origin: Origin, **more: Any) -> ModelVersion:
    """What a checkpoint folder says of itself.

    Args:
        more: fields that it does not say, or in place of what it says.

    Raises:
        CheckpointError, ClipError: it is not a checkpoint.
    """
    manifest = read_manifest(folder)
    provenance, clip = manifest.provenance, clip_facts(manifest.config.clip, beside=folder)
    found = {
        "name": manifest.name,
        "version": manifest.version,
        "created": datetime.fromtimestamp((folder / WEIGHTS_FILE).stat().st_mtime, UTC),
        "stage": provenance.stage,
        "step": provenance.step,
        "parent": provenance.parent,
        "num_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "scorer": (clip.name, clip.revision),
        "embedding_numbers": clip.embed_dim,
    }
    return ModelVersion.model_validate({**found, "origin": origin, **more})
