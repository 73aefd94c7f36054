"""semicap evaluate."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.manifest import SECOND_SCORER
from training.command_errors import errors_in_one_line
from training.comparison import Comparison, compare
from training.evaluate import beam_options, evaluate_checkpoint, read_evaluation_photos
from training.history import History, history_of
from training.page import MAX_PHOTOS, write_page
from training.report import Report
from training.tables import labels, notes, provenance, terminal_table


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="folder of a trained model")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="folder of photos, with metadata.jsonl if labelled")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="another checkpoint on the same photos")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="write the report")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page")] = None,
    max_photos: Annotated[
        int, typer.Option("--photos", min=0, max=1000, help="photos on the page")
    ] = MAX_PHOTOS,
    limit: Annotated[int, typer.Option(min=0, help="photos used, the first ones; 0: all")] = 0,
    num_beams: Annotated[int, typer.Option(min=1, max=16, help="1: greedy")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="longest caption in tokens")] = 30,
    length_penalty: Annotated[float, typer.Option(help="above 0 favours long captions")] = 1.0,
    no_repeat_ngram_size: Annotated[
        int, typer.Option(min=0, max=16, help="the service takes 2; 0 shows what the model repeats")
    ] = 0,
    second_scorer: Annotated[
        Path, typer.Option(metavar="DIR", help="another CLIP folder that judges too", show_default="ours")
    ] = SECOND_SCORER,
    prompt: Annotated[str, typer.Option(help='text CLIP reads before each caption, "A photo depicts "')] = "",
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="keep CLIP features here")] = None,
) -> None:
    """Caption photos and measure the captions: agreement with references, CLIP, retrieval, language."""
    with errors_in_one_line(), tempfile.TemporaryDirectory() as scratch:
        options = beam_options(
            num_beams,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
        )
        checkpoints = [checkpoint] if against is None else [checkpoint, against]
        _check_results(json_file, html_file)
        photos = read_evaluation_photos(data, limit=limit)
        reports = [
            evaluate_checkpoint(
                one,
                photos,
                options=options,
                cache=cache or Path(scratch),
                second_scorer=second_scorer,
                prompt=prompt,
            )
            for one in checkpoints
        ]
        comparison = compare(*reports) if against is not None else None
        _print_figures(reports, comparison)
        if json_file is not None:
            (comparison or reports[0]).write(json_file)
        if html_file is not None:
            histories = _histories(reports, checkpoints)
            images = photos.captioned.images
            write_page(
                html_file, reports[0], comparison, images=images, histories=histories, max_photos=max_photos
            )


def _check_results(*files: Path | None) -> None:
    """Minutes of captioning should not end at a folder that does not exist."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent} is not a folder; {file} cannot be written")


def _print_figures(reports: Sequence[Report], comparison: Comparison | None) -> None:
    console = Console()
    for line in provenance(reports):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(terminal_table(reports, comparison.differences if comparison else {}))
    for line in notes(reports):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _histories(reports: Sequence[Report], checkpoints: Sequence[Path]) -> dict[str, History]:
    """The curves of the checkpoints that lie in the folder of their run, by label."""
    histories = zip(labels(reports), map(history_of, checkpoints), strict=True)
    return {label: history for label, history in histories if history}
