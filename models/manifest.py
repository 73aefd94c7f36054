"""What a checkpoint folder says of itself; read without torch, by whoever only lists or chooses models."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.config import CaptionerConfig, ConfigError

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
DEFAULT_CHECKPOINT = Path(__file__).parent / "pretrained" / "default"
SECOND_SCORER = Path(__file__).parent / "pretrained" / "second-scorer"
"""A CLIP that no loss has seen: it judges, and nothing is trained against it."""


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be read; the message names the file and what to do.

    Args:
        reason: what is wrong and what to do, without a path, so that clients of a service may read it.
        path: what `reason` is said of: the folder, or a file in it.
        cause: in another library's words, in which there may be paths.
    """

    def __init__(self, reason: str, path: Path | None = None, *, cause: Exception | None = None) -> None:
        super().__init__(f"{f'{path} ' if path else ''}{reason}{f': {cause}' if cause else ''}")
        self.reason = f"{path.name} {reason}" if path else reason


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint comes from.

    Args:
        name: what the model is called in answers.
        stage: training stage that wrote it.
        step: optimizer steps of that stage.
        parent: version it was trained from.
    """

    name: str
    stage: str
    step: int = 0
    parent: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The identity of a checkpoint: provenance, version (of all that decides captions), configuration."""

    provenance: Provenance
    version: str
    weights_sha256: str
    config: CaptionerConfig

    @property
    def name(self) -> str:
        return self.provenance.name


def read_manifest(folder: Path) -> Manifest:
    """The identity and configuration of a checkpoint, without its weights."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"is not a checkpoint: it has no {CONFIG_FILE}", folder)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"has format version {version}; this semicap reads {FORMAT_VERSION}: "
                "use the semicap release that wrote it, or train again",
                path,
            )
        return Manifest(
            provenance=Provenance(**values["provenance"]),
            version=values["version"],
            weights_sha256=values["weights_sha256"],
            config=CaptionerConfig.from_dict(values["config"]),
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"is damaged ({error}); fetch or write the checkpoint again", path) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a checkpoint's configuration file."""
    values: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "version": manifest.version,
        "weights_sha256": manifest.weights_sha256,
        "provenance": asdict(manifest.provenance),
        "config": manifest.config.to_dict(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n")
