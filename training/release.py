"""The last step of a recipe: measures the stages' checkpoints and gives the last of them its model card."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import CARD_FILE, read_manifest
from models.generation import GenerationOptions
from training.config import Places, ReleaseConfig
from training.disk import new_folder
from training.evaluate import evaluate_checkpoint, read_evaluation_photos
from training.report import Report

CARD_FIGURES = {
    "cider_d": "CIDEr-D",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "clip_similarity": "CLIP similarity",
    "clip_score": "CLIPScore",
    "r@1": "caption -> image R@1 (%)",
    "r@5": "R@5 (%)",
    "r@10": "R@10 (%)",
    "distinct_captions": "distinct captions (%)",
    "vocabulary": "words used",
    "length_mean": "words in a caption",
    "repetition": "repeated word pairs (%)",
}


def run_release(config: ReleaseConfig, places: Places) -> Path:
    """Writes a copy of the last checkpoint whose card has the figures of all; returns its folder.

    Raises:
        CheckpointError: one of them is missing or damaged; found before the first is measured.
        WriteError: no space; an older release is untouched.
    """
    for checkpoint in config.checkpoints:
        read_manifest(places.run(checkpoint))
    options = GenerationOptions(
        strategy="beam" if config.num_beams > 1 else "greedy", num_beams=config.num_beams
    )
    photos = read_evaluation_photos(places.data / config.validation)
    reports = [
        evaluate_checkpoint(places.run(checkpoint), photos, options=options, cache=places.cache)
        for checkpoint in config.checkpoints
    ]
    for report in reports:
        report.write(places.out / f"{report.stage}.json")
    folder = places.out / "model"
    with new_folder(folder) as scratch:
        shutil.copytree(places.run(config.checkpoints[-1]), scratch, dirs_exist_ok=True)
        (scratch / CARD_FILE).write_text(model_card(config, reports, num_bytes=_size_of(scratch)))
    return folder


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
        f"The CLIP figures are by the model's own scorer, {last.scorer}. Stage 2 is trained against it, "
        "so they flatter stage 2.",
        "",
        "| | " + " | ".join(f"{report.stage}, step {report.step}" for report in reports) + " |",
        "|---" * (len(reports) + 1) + "|",
    ]
    for name, title in CARD_FIGURES.items():
        if all(name in report.figures for report in reports):
            values = (f"{report.figures[name]:.{3 if 'clip' in name else 1}f}" for report in reports)
            lines.append(f"| {title} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def _decoding(config: ReleaseConfig) -> str:
    return f"beam of {config.num_beams}, likeliest caption" if config.num_beams > 1 else "greedy decoding"


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
