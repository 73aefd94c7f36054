"""semicap train and semicap evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.command_errors import errors_in_one_line
from training.config import Places
from training.dry_run import DryRun, dry_run
from training.evaluate_command import evaluate
from training.experiment import run_experiment
from training.run import dry_run_recipe, read_step, run_recipe, run_step
from training.stages import STAGES, StageEntry
from training.toml_reader import TrainingConfigError, setting_lines

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="settings of the step")]
DataRoot = Annotated[Path, typer.Option("--data", metavar="ROOT", help="folder the data paths start from")]
OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="folder of this run")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. optim.lr=1e-4")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="check configuration, data, memory and disk in seconds, then stop")
]

train_app = typer.Typer(
    help="Train a vocabulary, a small CLIP, or a captioner.", no_args_is_help=True, rich_markup_mode=None
)


def _add_stage(name: str, entry: StageEntry) -> None:
    """One command for each kind of step, all alike."""

    @train_app.command(
        name,
        help=entry.about,
        epilog=f"Example: semicap train {name} my-{name}.toml --data PHOTOS --out runs/mine",
    )
    def train(
        config: ConfigFile,
        data: DataRoot,
        out: OutFolder,
        overrides: Overrides = None,
        resume: Resume = False,
        is_dry: DryRunOption = False,
    ) -> None:
        with errors_in_one_line():
            _, settings = read_step(config, overrides or [], expected=name)
            if is_dry:
                _show_dry_runs([dry_run(name, settings, Places(data, out))])
                return
            result = run_step(settings, Places(data, out), resume=resume)
            Console().print(f"{name} finished: {result}", highlight=False, soft_wrap=True)


for stage_name, stage_entry in STAGES.items():
    _add_stage(stage_name, stage_entry)


@train_app.command(
    "recipe",
    epilog="Example: semicap train recipe training/recipes/default --data PHOTOS --out runs/mine --dry-run",
)
def train_recipe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of numbered .toml files")],
    data: DataRoot,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder that gets one run for each file")],
    is_dry: DryRunOption = False,
) -> None:
    """Run the steps of a recipe in order.

    A second start goes on where the first was cut.
    """
    with errors_in_one_line():
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
    """Train and measure every arm of an experiment.

    Writes a page of what came out. A second start goes on where the first was cut.
    """
    with errors_in_one_line():
        page = run_experiment(folder, data=data, out=out)
        Console().print(f"experiment finished: {page}", highlight=False, soft_wrap=True)


@train_app.command("settings")
def show_settings(stage: Annotated[str, typer.Argument(help=", ".join(STAGES))]) -> None:
    """List every setting of a stage with its default and meaning."""
    with errors_in_one_line():
        if stage not in STAGES:
            raise TrainingConfigError("stage", [f"{stage!r} is not one of {', '.join(STAGES)}"])
        table = Table("setting", "default", "meaning", box=None)
        for line in setting_lines(STAGES[stage].config):
            table.add_row(line.key, str(line.default), line.doc)
        Console().print(table, highlight=False, markup=False)


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


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.add_typer(train_app, name="train")
app.command(
    "evaluate", epilog="Example: semicap evaluate runs/mine/9-average/model PHOTOS/val --html report.html"
)(evaluate)
