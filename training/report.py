"""What an evaluation found: figures, every caption with its scores, and all that is needed to repeat it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from training.disk import escaped, replace_text


@dataclass(frozen=True)
class EvaluatedImage:
    """One image of a report.

    Args:
        scores: by figure; the mean over all images is the report's figure of the same name.
    """

    image: str
    caption: str
    scores: Mapping[str, float]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """An evaluation with everything needed to repeat it; percentages are 0..100.

    Args:
        scorer: name and revision of the CLIP behind clip_score and r@k.
        prompt: text that CLIP reads before each caption.
        figures: as named in training/figures.py.
        skipped: what the data set lost, by kind.
    """

    model: str
    version: str
    stage: str
    step: int
    data: str
    images: int
    decoding: Mapping[str, object]
    scorer: str
    second_scorer: str
    prompt: str
    figures: Mapping[str, float]
    skipped: Mapping[str, int]
    captions: tuple[EvaluatedImage, ...]

    @property
    def has_references(self) -> bool:
        return "cider_d" in self.figures

    @property
    def scored(self) -> frozenset[str]:
        """Names of the figures that each image has a score for."""
        return frozenset(self.captions[0].scores)

    def scores(self, name: str) -> Float[np.ndarray, "images"]:
        """One figure of every image."""
        return np.array([image.scores[name] for image in self.captions])

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def read_report(path: Path) -> Report:
    """The report that `Report.write` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    images = [
        EvaluatedImage(**{**image, "references": tuple(image["references"])})
        for image in values.pop("captions")
    ]
    return Report(**values, captions=tuple(images))


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Readable JSON, text unescaped; whole or not at all, but for a pipe or a link, which is written into."""
    text = escaped(json.dumps(values, indent=1, ensure_ascii=False)) + "\n"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
    else:
        replace_text(path, text)
