"""The last step of a recipe: measures the stages' checkpoints and gives the last of them its model card."""

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath

from models.manifest import CARD_FILE, read_manifest
from training.config import Places, ReleaseConfig
from training.disk import new_folder
from training.evaluate import beam_options, evaluate_checkpoint, read_evaluation_photos
from training.figures import FIGURES
from training.report import Report

CARD_FIGURES = (
    *("cider_d", "bleu_4", "rouge_l"),
    *("clip_similarity", "clip_score", "r@1", "r@5", "r@10"),
    *("second_clip_similarity", "second_clip_score", "second_r@1", "second_r@5", "second_r@10"),
    *("distinct_captions", "vocabulary", "length_mean", "repetition"),
)
"""Names in training/figures.py; those that were not measured are left out."""


def run_release(config: ReleaseConfig, places: Places) -> Path:
    """Writes a copy of the last checkpoint whose card has the figures of all; returns its folder.

    Raises:
        CheckpointError: one of them is missing or damaged; found before the first is measured.
        WriteError: no space; an older release is untouched.
    """
    for checkpoint in config.checkpoints:
        read_manifest(places.run(checkpoint))
    options = beam_options(config.num_beams)
    photos = read_evaluation_photos(places.data / config.validation)
    reports = [
        evaluate_checkpoint(
            places.run(checkpoint),
            photos,
            options=options,
            cache=places.cache,
            second_scorer=places.second_scorer(config.second_scorer),
        )
        for checkpoint in config.checkpoints
    ]
    for checkpoint, report in zip(config.checkpoints, reports, strict=True):
        report.write(places.out / f"{step_of(checkpoint)}.json")
    folder = places.out / "model"
    with new_folder(folder) as scratch:
        shutil.copytree(places.run(config.checkpoints[-1]), scratch, dirs_exist_ok=True)
        (scratch / CARD_FILE).write_text(model_card(config, reports, num_bytes=_size_of(scratch)))
    return folder


def step_of(checkpoint: str) -> str:
    """The recipe's step that made a checkpoint, which its columns and files are called by."""
    return PurePath(checkpoint).parts[0]


def model_card(config: ReleaseConfig, reports: Sequence[Report], *, num_bytes: int) -> str:
    """Markdown: what the model is, and what its stages measured on the same photos."""
    last = reports[-1]
    lines = [
        f"# {last.model}",
        "",
        f"Version {last.version}, {num_bytes / 1e6:.1f} MB with everything it needs.",
        "",
        config.about.strip(),
        "",
        "## Figures",
        "",
        f"{last.images} validation photos ({config.validation}), never trained on; {_decoding(config)}. "
        f"CLIP figures are by the model's own scorer, {last.scorer}. Stage 2 is trained against it, so they "
        f"flatter stage 2. The second scorer, {last.second_scorer}, was in no loss.",
        "",
        "| | " + " | ".join(map(step_of, config.checkpoints)) + " |",
        "|---" * (len(reports) + 1) + "|",
    ]
    for name in CARD_FIGURES:
        if all(name in report.figures for report in reports):
            figure = FIGURES[name]
            values = (figure.shown(report.figures[name]) for report in reports)
            lines.append(f"| {figure.full_title} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _decoding(config: ReleaseConfig) -> str:
    return f"beam of {config.num_beams}, likeliest caption" if config.num_beams > 1 else "greedy decoding"


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
