"""`semicap models`: what is kept under SEMICAP_DATA_DIR, and how public weights get there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.errors import CommandError
from service.settings import read_settings

if TYPE_CHECKING:
    from service.model_store import ModelStore

models_app = typer.Typer(
    help="The models under SEMICAP_DATA_DIR.", no_args_is_help=True, rich_markup_mode=None
)


@models_app.command("list")
def list_models() -> None:
    """Every model and version, the newest import of a name first."""
    for one in _store().models():
        megabytes = one.num_bytes / 1e6
        typer.echo(f"{one.id}  imported {one.imported:%Y-%m-%d %H:%M} UTC  {megabytes:.0f} MB")


@models_app.command("show")
def show_model(name: Annotated[str, typer.Argument(help="NAME or NAME/VERSION")]) -> None:
    """Where a model is, and its card."""
    from models.checkpoint import CheckpointError

    try:
        model = _store().model(name)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"{model.folder}\n\n{model.card}")


@models_app.command("import-clipcap")
def import_clipcap(
    file: Annotated[Path, typer.Argument(help="ClipCap's state dict: .pt or .safetensors")],
    name: Annotated[str, typer.Option(help="What the model is called from now on.")],
    clip: Annotated[
        str, typer.Option(help="open_clip's name of the CLIP it was trained on, or a folder")
    ] = "ViT-B-32",
    clip_pretrained: Annotated[str, typer.Option(help="open_clip's tag of that CLIP's weights")] = "openai",
    gpt2_files: Annotated[
        Path | None, typer.Option(help="Folder with GPT-2's vocab.json and merges.txt [the hub's].")
    ] = None,
    embedding: Annotated[
        Literal["raw", "unit"] | None,
        typer.Option(
            help="Whether training normalised CLIP's embedding [raw for an MLP, unit for a transformer, "
            "as in the published weights]."
        ),
    ] = None,
) -> None:
    """Import public ClipCap weights, MLP or transformer; no code of the file is executed."""
    from models.checkpoint import CheckpointError
    from models.clip import LOCAL_PREFIX, ClipError
    from models.config import ClipConfig, ConfigError
    from models.convert import ConversionError
    from models.convert import import_clipcap as convert
    from models.torch_file import TorchFileError

    is_folder = Path(clip).is_dir()
    clip_config = ClipConfig(f"{LOCAL_PREFIX}{clip}") if is_folder else ClipConfig(clip, clip_pretrained)
    try:
        model = _store().add(
            name,
            lambda folder: convert(
                file,
                folder,
                name=name,
                clip_config=clip_config,
                gpt2_files=gpt2_files,
                embedding=embedding,
            ),
        )
    except (CheckpointError, ClipError, ConfigError, ConversionError, TorchFileError) as error:
        raise CommandError(str(error)) from error
    typer.echo(f"imported {model.id}; SEMICAP_CHECKPOINT={name} semicap serve answers with it")


@models_app.command("create-random")
def create_random_model(
    name: Annotated[str, typer.Argument(help="What the model is called from now on.")],
    preset: Annotated[
        Literal["vit-b-32-gpt2", "small"],
        typer.Option(
            help="Its sizes: the reference configuration (124 M + 151 M parameters), or a tiny one."
        ),
    ] = "vit-b-32-gpt2",
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same model.")] = 0,
    gpt2_files: Annotated[
        Path | None,
        typer.Option(help="Folder with GPT-2's vocab.json and merges.txt [made-up words, as many]."),
    ] = None,
) -> None:
    """Make a model at random weights, for trying and timing a deployment without a hub."""
    from models.checkpoint import CheckpointError
    from models.random_model import create_random

    if gpt2_files is not None and not (gpt2_files / "vocab.json").is_file():
        raise CommandError(f"{gpt2_files} has no vocab.json; name the folder of GPT-2's vocabulary")
    try:
        model = _store().add(
            name,
            lambda folder: create_random(folder, name=name, preset=preset, seed=seed, gpt2_files=gpt2_files),
        )
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"made {model.id}; SEMICAP_CHECKPOINT={name} semicap serve answers with it")


def _store() -> "ModelStore":
    from service.model_store import ModelStore

    return ModelStore(read_settings().models_dir)
