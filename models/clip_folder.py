"""What names a CLIP: a local folder and what it says of itself, or open_clip's name; read without torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import ClipConfig

LOCAL_PREFIX, HUB_PREFIX = "local-dir:", "hf-hub:"
LOCAL_CONFIG = "open_clip_config.json"
LOCAL_WEIGHTS = "open_clip_model.safetensors"
LOCAL_MERGES = "bpe.txt.gz"


class ClipError(ValueError):
    """A CLIP model that cannot be loaded or that lacks what captioning needs."""


@dataclass(frozen=True)
class ClipFacts:
    """What can be said of a CLIP without loading it."""

    name: str
    revision: str
    embed_dim: int


def clip_facts(config: ClipConfig, *, beside: Path | None = None) -> ClipFacts:
    """Name, revision and embedding length of the encoder that ClipEncoder.load would give.

    Raises:
        ClipError: a folder that lacks its files, a name that open_clip does not know.
    """
    if not config.model.startswith(LOCAL_PREFIX):
        import open_clip  # seconds, which a local folder need not wait for

        try:
            embed_dim = int(open_clip.get_model_config(config.model)["embed_dim"])
        except Exception as error:
            raise ClipError(f"open_clip does not know {config.model!r}: {error}") from error
        return ClipFacts(config.model, hub_revision(config), embed_dim)
    folder = (beside or Path()) / config.model.removeprefix(LOCAL_PREFIX)
    check_local(folder)
    settings = json.loads((folder / LOCAL_CONFIG).read_text())
    return ClipFacts(
        settings.get("name", folder.name),
        file_revision(folder / LOCAL_WEIGHTS),
        int(settings["model_cfg"]["embed_dim"]),
    )


def write_local_config(
    folder: Path, *, name: str, model: dict[str, Any], preprocess: dict[str, Any], merges: bytes | None
) -> None:
    """Writes what describes a local CLIP, before it has weights.

    Args:
        model: open_clip's model configuration (embed_dim, vision_cfg, text_cfg).
        preprocess: open_clip's preprocessing (size, mean, std, interpolation, resize_mode).
        merges: gzipped BPE merges in CLIP's format; None means CLIP's own vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"name": name, "model_cfg": model, "preprocess_cfg": preprocess}
    (folder / LOCAL_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    if merges is not None:
        (folder / LOCAL_MERGES).write_bytes(merges)


def check_local(folder: Path) -> None:
    for file in (LOCAL_CONFIG, LOCAL_WEIGHTS):
        if not (folder / file).is_file():
            raise ClipError(
                f"{folder} has no {file}; a local CLIP folder needs {LOCAL_CONFIG} and {LOCAL_WEIGHTS}"
            )


def hub_revision(config: ClipConfig) -> str:
    return config.pretrained or ("hub" if config.model.startswith(HUB_PREFIX) else "random")


def file_revision(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
