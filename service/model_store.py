"""The models that an operator has imported: checkpoint folders under data_dir/models/<name>/<version>/."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.checkpoint import CARD_FILE, CONFIG_FILE, CheckpointError, Manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class StoredModel:
    """One version of a model in the store."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> str:
        return self.folder.name

    @property
    def id(self) -> str:
        """What SEMICAP_CHECKPOINT calls it."""
        return f"{self.name}/{self.version}"

    @property
    def imported(self) -> datetime:
        return datetime.fromtimestamp((self.folder / CONFIG_FILE).stat().st_mtime, UTC)

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    @property
    def card(self) -> str:
        path = self.folder / CARD_FILE
        return path.read_text() if path.is_file() else ""


class ModelStore:
    """The models below a folder, which need not exist while there are none."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def models(self) -> list[StoredModel]:
        """Every version of every model, by name, the newest import first."""
        stored = [StoredModel(config.parent) for config in self._root.glob(f"*/*/{CONFIG_FILE}")]
        stored = [one for one in stored if not one.version.startswith(".")]
        newest_first = sorted(stored, key=lambda one: one.imported, reverse=True)
        return sorted(newest_first, key=lambda one: one.name)

    def model(self, wanted: str) -> StoredModel:
        """The model of a name (its newest import) or of name/version.

        Raises:
            CheckpointError: there is none; the message says which there are.
        """
        stored = self.models()
        for one in stored:
            if wanted in (one.name, one.id):
                return one
        known = ", ".join(one.id for one in stored) or "no model"
        raise CheckpointError(f"there is no model {wanted!r}; {self._root} has {known}")

    def find(self, checkpoint: Path | None) -> Path | None:
        """The checkpoint folder that a setting means: a folder, else a model of the store, else the default.

        Raises:
            CheckpointError: neither; the message says which models there are.
        """
        if checkpoint is None or checkpoint.is_dir():
            return checkpoint
        try:
            return self.model(str(checkpoint)).folder
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint} is not a checkpoint folder, and {error}") from error

    def add(self, name: str, write: Callable[[Path], Manifest]) -> StoredModel:
        """Keeps what `write` writes into the folder it is given, under its own version.

        Raises:
            CheckpointError: not a name that a folder can have, or that version is here already.
        """
        if not _NAME.fullmatch(name):
            raise CheckpointError(
                f"{name!r} cannot name a model: letters, digits, '.', '_' and '-', at most 64, "
                "beginning with a letter or digit"
            )
        scratch = self._root / name / ".importing"
        try:
            version = write(scratch).version
            folder = self._root / name / version
            if folder.exists():
                raise CheckpointError(f"{name}/{version} is here already; remove {folder} to import it again")
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return StoredModel(folder)
