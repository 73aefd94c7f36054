"""What the process of a run is told, and where in its folder it leaves what."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.finetuning.gate_limits import GateLimits
from service.finetuning.settings import FinetuneSettings


@dataclass(frozen=True)
class Task:
    """A run as its process is told.

    Args:
        store: location of the artifact store that has the datasets.
        base: version that it starts from, as name:version.
        models_cache: folder that model versions are fetched into.
        second_scorer: CLIP folder.
        threads: of torch; 0 leaves it the choice.
    """

    job: str
    store: str
    dataset: str
    replay_dataset: str | None
    base: str
    models_cache: str
    auto_activate: bool
    second_scorer: str
    settings: dict[str, Any]
    gate: GateLimits
    device: str
    threads: int
    decode_threads: int
    max_image_bytes: int
    max_image_pixels: int
    save_every_minutes: float

    @property
    def asked(self) -> FinetuneSettings:
        return FinetuneSettings.model_validate(self.settings)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Task":
        values = json.loads(path.read_text())
        return cls(**{**values, "gate": GateLimits(**values["gate"])})


@dataclass(frozen=True)
class Ending:
    """How a run ended: with a model, or with a reason why there is none.

    Args:
        model: the version made, as name:version.
        note: why a version that passed was not activated.
    """

    error: str | None = None
    model: str | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    is_activated: bool = False
    note: str | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Ending":
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run; `training` is the training loop's own, all else is made again when it is lost."""

    root: Path

    @property
    def task(self) -> Path:
        return self.root / "task.json"

    @property
    def training(self) -> Path:
        return self.root / "run"

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def items(self) -> Path:
        """What became of each item, a line each; there once all photos have been looked at."""
        return self.root / "items.jsonl"

    @property
    def phase(self) -> Path:
        return self.root / "phase"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def ending(self) -> Path:
        return self.root / "ending.json"

    @property
    def model(self) -> Path:
        return self.training / "model"
