"""A model version that is loaded."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from models.captioner import Captioner
from models.checkpoint import load_captioner
from models.generation import OptionError
from models.manifest import CARD_FILE, DEFAULT_CHECKPOINT, CheckpointError, Manifest, read_manifest
from service.engine.options import CaptionOptions
from service.errors import ModelNotFoundError
from service.model_versions import ModelVersion, version_of
from service.option_reading import invalid_option

CAPTION_LANGUAGE = "en"
"""Language of the captions that every model here is trained on, a BCP 47 tag."""


class DeviceError(ValueError):
    """A device that does not exist here; the message says what to set."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded captioner and what answers say of it."""

    captioner: Captioner
    manifest: Manifest
    card: str
    entry: ModelVersion

    @property
    def created(self) -> datetime:
        return self.entry.created

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def id(self) -> str:
        """Name and version in one word, as the model list gives it."""
        return f"{self.name}:{self.version}"

    def check_asked_for(self, wanted: str | None) -> None:
        """Holds a request's `model` to the model that answers; name, version, both, or nothing name it."""
        if wanted not in (None, self.name, self.version, self.id):
            raise ModelNotFoundError(f"{wanted!r} is not the model that answers; this service has {self.id}")

    def check_room(self, options: CaptionOptions) -> None:
        """Raises InvalidOptionError where the prefix leaves no room for a caption."""
        try:
            options.to_generation(self.captioner.tokenizer, max_tokens=self.captioner.config.max_tokens)
        except OptionError as error:
            raise invalid_option(error) from error


def load_served_model(
    checkpoint: Path | None, *, device: str, entry: ModelVersion | None = None
) -> ServedModel:
    """Loads a checkpoint folder, or the model that comes along.

    Args:
        entry: what the registry knows of it; None for a folder that is in no registry.

    Raises:
        CheckpointError: as models.checkpoint.load_captioner.
        DeviceError: as resolve_device.
    """
    folder = checkpoint or DEFAULT_CHECKPOINT
    captioner = load_captioner(folder, device=resolve_device(device))
    card = folder / CARD_FILE
    return ServedModel(
        captioner=captioner,
        manifest=read_manifest(folder),
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        entry=entry or version_of(folder, origin="folder" if checkpoint else "shipped"),
    )


def load_failure(error: Exception) -> str:
    """What a caller may read of an error of loading a version: no path of this machine."""
    return error.reason if isinstance(error, CheckpointError) else "the service's log has the reason"


def resolve_device(name: str) -> str:
    """Torch's device for a setting; "auto" takes the best there is.

    Raises:
        DeviceError: there is no such device here.
    """
    if name != "auto":
        return _checked_device(name)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _checked_device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"SEMICAP_DEVICE is {name!r}, which is not here; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return name
