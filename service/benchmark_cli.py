"""`semicap bench`: the short benchmark as a table or as JSON."""

import json
import sys
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from service.benchmark import WORK_OF_A_FORMAT, Benchmark, Report, made_up_photos
from service.errors import CommandError
from service.images import ImageLimits
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry
from service.offline.photo_files import NoSuchPhotoError, find_photos
from service.settings import Settings

MAX_PHOTOS = 256


def run_benchmark(settings: Settings, *, photos: str | None, seconds: float, prints_json: bool) -> None:
    """Measures the model that the settings name and prints what was found.

    Args:
        photos: a folder, file or pattern; None uses made-up pictures.

    Raises:
        CommandError: no such model, device or photo.
    """
    console = Console(stderr=True)
    try:
        model, _ = load_chosen(ModelRegistry.reading(settings), settings)
        encoded = _read(photos) if photos else made_up_photos()
    except (NoSuchPhotoError, OSError) as error:
        raise CommandError(str(error)) from error
    report = Benchmark(
        model.captioner,
        model.id,
        encoded,
        ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        precision=settings.precision,
        decode_threads=settings.decode_threads,
        seconds=seconds,
        say=lambda text: console.print(text, style="dim"),
    ).run()
    if prints_json:
        typer.echo(json.dumps(as_json(report), indent=2))
    else:
        _print(report, Console(file=sys.stdout))


def as_json(report: Report) -> dict[str, Any]:
    """The report's figures; images_per_s among them."""
    values = asdict(report)
    values["end_to_end"]["images_per_s"] = report.end_to_end.images_per_s
    return values


def _read(photos: str) -> list[bytes]:
    return [path.read_bytes() for path in find_photos([photos])[:MAX_PHOTOS]]


def _print(report: Report, console: Console) -> None:
    here, whole = report.machine, report.end_to_end
    console.print(
        f"{report.model} on {here.processor}, {here.device}: {here.cpus} processors, {here.threads} threads, "
        f"torch {here.torch}",
        highlight=False,
    )
    if report.format_seconds:
        table = Table("format", WORK_OF_A_FORMAT, "against fp32", "", box=None)
        for name, spent in report.format_seconds.items():
            ratio = report.format_seconds["fp32"] / spent
            chosen = "the engine's choice" if name == report.chosen else ""
            table.add_row(name, f"{spent:.2f} s", f"{ratio:.1f} x", chosen)
        console.print(table)
    stages = Table("engine's stage", "share of the time", box=None)
    for stage, spent in whole.stage_seconds.items():
        stages.add_row(stage, f"{spent / whole.seconds:.0%}")
    console.print(stages)
    console.print(
        f"{whole.images_per_s:.1f} images/s from JPEG to scored caption, default options "
        f"({whole.images} images in {whole.seconds:.1f} s)",
        highlight=False,
    )
