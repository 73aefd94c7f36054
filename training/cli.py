"""semicap train and semicap evaluate."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from models.clip_folder import ClipError
from models.config import ConfigError
from models.generation import GenerationOptions, OptionError
from models.manifest import SECOND_SCORER, CheckpointError
from training.comparison import Comparison, compare
from training.config import STAGES, Places
from training.data import DataError
from training.disk import WriteError
from training.dry_run import DryRun, dry_run
from training.evaluate import evaluate_checkpoint, read_evaluation_photos
from training.experiment import run_experiment
from training.history import history_of
from training.loop import TrainingDivergedError
from training.page import MAX_PHOTOS, write_page
from training.report import Report
from training.run import dry_run_recipe, read_step, run_recipe, run_step
from training.state import ResumeError
from training.tables import labels, notes, provenance, terminal_table
from training.toml_reader import TrainingConfigError, setting_lines

EXPECTED_ERRORS = (
    TrainingConfigError,
    DataError,
    ResumeError,
    TrainingDivergedError,
    WriteError,
    CheckpointError,
    ClipError,
    ConfigError,
    OptionError,
    OSError,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="settings of the step")]
DataRoot = Annotated[Path, typer.Option("--data", metavar="ROOT", help="folder the data paths start from")]
OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="folder of this run")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. optim.lr=1e-4")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="check configuration, data, memory and disk in seconds, then stop")
]

train_app = typer.Typer(help="Train a vocabulary, a small CLIP, or a captioner.", no_args_is_help=True)


@train_app.command("tokenizer")
def train_tokenizer(
    config: ConfigFile, data: DataRoot, out: OutFolder, overrides: Overrides = None, resume: Resume = False
) -> None:
    """Learn a small vocabulary in CLIP's format from captions."""
    _train("tokenizer", config, Places(data, out), overrides or [], resume=resume)


@train_app.command("text")
def train_text(
    config: ConfigFile,
    data: DataRoot,
    out: OutFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    is_dry: DryRunOption = False,
) -> None:
    """Start a small CLIP and a decoder on captions alone."""
    train = _dry_run if is_dry else _train
    train("text", config, Places(data, out), overrides or [], resume=resume)


@train_app.command("joint")
def train_joint(
    config: ConfigFile,
    data: DataRoot,
    out: OutFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    is_dry: DryRunOption = False,
) -> None:
    """Go on with both from the pixels of labelled photos."""
    train = _dry_run if is_dry else _train
    train("joint", config, Places(data, out), overrides or [], resume=resume)


@train_app.command("pseudo")
def train_pseudo(
    config: ConfigFile,
    data: DataRoot,
    out: OutFolder,
    overrides: Overrides = None,
    is_dry: DryRunOption = False,
) -> None:
    """Give unlabelled photos captions of other photos that name what is surely in them."""
    train = _dry_run if is_dry else _train
    train("pseudo", config, Places(data, out), overrides or [], resume=False)


@train_app.command("supervised")
def train_supervised(
    config: ConfigFile,
    data: DataRoot,
    out: OutFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    is_dry: DryRunOption = False,
) -> None:
    """Stage 1: learn to caption from labelled photos."""
    train = _dry_run if is_dry else _train
    train("supervised", config, Places(data, out), overrides or [], resume=resume)


@train_app.command("unsupervised")
def train_unsupervised(
    config: ConfigFile,
    data: DataRoot,
    out: OutFolder,
    overrides: Overrides = None,
    resume: Resume = False,
    is_dry: DryRunOption = False,
) -> None:
    """Stage 2: go on from unlabelled photos, by CLIP similarity."""
    train = _dry_run if is_dry else _train
    train("unsupervised", config, Places(data, out), overrides or [], resume=resume)


@train_app.command("recipe")
def train_recipe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of numbered .toml files")],
    data: DataRoot,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder that gets one run for each file")],
    is_dry: DryRunOption = False,
) -> None:
    """Run the steps of a recipe in order; a second start goes on where the first was cut."""
    with _errors_in_one_line():
        if is_dry:
            _show_dry_runs(dry_run_recipe(folder, data=data, out=out))
            return
        results = run_recipe(folder, data=data, out=out)
        Console().print(f"recipe finished: {results[-1]}", highlight=False, soft_wrap=True)


@train_app.command("experiment")
def train_experiment(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder with experiment.toml and its steps")],
    data: DataRoot,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder of runs, one each arm and seed")],
) -> None:
    """Train every arm of an experiment, measure all alike, write a page; a second start goes on."""
    with _errors_in_one_line():
        page = run_experiment(folder, data=data, out=out)
        Console().print(f"experiment finished: {page}", highlight=False, soft_wrap=True)


@train_app.command("settings")
def show_settings(stage: Annotated[str, typer.Argument(help=", ".join(STAGES))]) -> None:
    """List every setting of a stage with its default and meaning."""
    with _errors_in_one_line():
        if stage not in STAGES:
            raise TrainingConfigError("stage", [f"{stage!r} is not one of {', '.join(STAGES)}"])
        table = Table("setting", "default", "meaning", box=None)
        for line in setting_lines(STAGES[stage]):
            table.add_row(line.key, str(line.default), line.doc)
        Console().print(table, highlight=False, markup=False)


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
    with _errors_in_one_line(), tempfile.TemporaryDirectory() as scratch:
        options = GenerationOptions(
            strategy="beam" if num_beams > 1 else "greedy",
            num_beams=num_beams,
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
            histories = zip(labels(reports), map(history_of, checkpoints), strict=True)
            write_page(
                html_file,
                reports[0],
                comparison,
                images=photos.captioned.images,
                histories={label: history for label, history in histories if history},
                max_photos=max_photos,
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


def _train(stage: str, config: Path, places: Places, overrides: list[str], *, resume: bool) -> None:
    with _errors_in_one_line():
        _, settings = read_step(config, overrides, expected=stage)
        result = run_step(settings, places, resume=resume)
        Console().print(f"{stage} finished: {result}", highlight=False, soft_wrap=True)


def _dry_run(stage: str, config: Path, places: Places, overrides: list[str], *, resume: bool) -> None:
    with _errors_in_one_line():
        _, settings = read_step(config, overrides, expected=stage)
        _show_dry_runs([dry_run(stage, settings, places)])


def _show_dry_runs(runs: Sequence[DryRun]) -> None:
    """Prints what was found; the status is 1 if a step could not start."""
    for run in runs:
        Console().print(run.table(), highlight=False, markup=False)
        for line in run.problems.lines():
            typer.echo(line)
        for fault in run.faults:
            typer.echo(f"error: {fault}", err=True)
    if any(run.faults for run in runs):
        raise typer.Exit(1)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except EXPECTED_ERRORS as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("stopped; go on with --resume (a recipe goes on by itself)", err=True)
        raise typer.Exit(130) from None


app = typer.Typer(add_completion=False)
app.add_typer(train_app, name="train")
app.command("evaluate")(evaluate)
