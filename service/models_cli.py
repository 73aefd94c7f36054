"""`semicap models`: versions, which one answers, and how weights become one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.errors import CommandError
from service.jobs.client import URL_VARIABLE, JobClient
from service.settings import read_settings

if TYPE_CHECKING:
    from service.model_registry import ModelRegistry
    from service.models_client import Models

models_app = typer.Typer(
    help=f"""The versions of models, and which one answers.

    Without --url and {URL_VARIABLE} the store itself is read and changed (SEMICAP_DATA_DIR,
    SEMICAP_STORE_URL), which is safe beside running services: those on it follow within seconds.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str | None, typer.Option(help=f"Ask the service at this address [{URL_VARIABLE}].")]
Name = Annotated[str, typer.Argument(metavar="MODEL", help="NAME:VERSION, NAME, VERSION or alias")]


@models_app.command("list")
def list_models(url: Url = None) -> None:
    """Every version; * marks the one that answers."""
    for row in _models(url, _registry_to_read).rows():
        typer.echo(str(row))


@models_app.command("show")
def show_model(model: Name, url: Url = None) -> None:
    """What is known of a version, and its card."""
    facts, card = _models(url, _registry_to_read).describe(model)
    typer.echo(f"{json.dumps(facts, indent=2)}\n\n{card}")


@models_app.command("activate", epilog="Example: semicap models activate semicap-small")
def activate(
    model: Name,
    override: Annotated[bool, typer.Option("--override", help="Even if it did not pass its gate.")] = False,
    url: Url = None,
) -> None:
    """Let a version answer, on every service of the store."""
    typer.echo(f"{_models(url, _registry).activate(model, override=override)} is active")


@models_app.command("rollback")
def rollback(url: Url = None) -> None:
    """Let the version before answer again.

    Once more, and it is one step further back.
    """
    typer.echo(f"{_models(url, _registry).rollback()} is active")


@models_app.command("delete")
def delete(model: Name, url: Url = None) -> None:
    """Remove a version that is not in use."""
    _models(url, _registry).delete(model)
    typer.echo(f"{model} is deleted")


@models_app.command("alias")
def alias(
    alias: Annotated[str, typer.Argument(metavar="ALIAS")],
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="What it means from now on.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="It means nothing any more.")] = False,
    url: Url = None,
) -> None:
    """Give a version another name, or move that name."""
    if remove == (model is not None):
        raise CommandError("name the MODEL that the alias means, or give --remove")
    models = _models(url, _registry)
    if model is None:
        models.delete_alias(alias)
    else:
        typer.echo(f"{alias} means {models.set_alias(alias, model)}")


@models_app.command("import")
def import_folder(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder, as training writes it.")],
) -> None:
    """Take a checkpoint folder into the store.

    It keeps its own name and version.
    """
    with _one_line_errors():
        version = _registry().publish(folder, origin="imported")
    typer.echo(f"imported {version.id}; semicap models activate {version.id} lets it answer")


@models_app.command(
    "import-clipcap",
    epilog="Example: semicap models import-clipcap coco_weights.pt --name clipcap-coco",
)
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
    """Import public ClipCap weights, MLP or transformer.

    No code of the file is executed.
    """
    from models.clip_folder import LOCAL_PREFIX
    from models.config import ClipConfig
    from models.convert import import_clipcap as convert

    is_folder = Path(clip).is_dir()
    clip_config = ClipConfig(f"{LOCAL_PREFIX}{clip}") if is_folder else ClipConfig(clip, clip_pretrained)
    with _one_line_errors():
        version = _registry().add(
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
    typer.echo(f"imported {version.id}; SEMICAP_CHECKPOINT={name} semicap serve answers with it")


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
        typer.Option(help="Folder with GPT-2's vocab.json and merges.txt [as many words that CLIP knows]."),
    ] = None,
) -> None:
    """Make a model at random weights.

    For trying and timing a deployment without a hub.
    """
    from models.random_model import create_random

    if gpt2_files is not None and not (gpt2_files / "vocab.json").is_file():
        raise CommandError(f"{gpt2_files} has no vocab.json; name the folder of GPT-2's vocabulary")
    with _one_line_errors():
        version = _registry().add(
            name,
            lambda folder: create_random(folder, name=name, preset=preset, seed=seed, gpt2_files=gpt2_files),
        )
    typer.echo(f"made {version.id}; SEMICAP_CHECKPOINT={name} semicap serve answers with it")


def _models(url: str | None, registry: Callable[[], "ModelRegistry"]) -> "Models":
    from service.models_client import ServedModels, StoredModels

    asks_service = url or os.environ.get(URL_VARIABLE)
    return ServedModels(JobClient(url)) if asks_service else StoredModels(registry())


def _registry_to_read() -> "ModelRegistry":
    from service.model_registry import ModelRegistry

    return ModelRegistry.reading(read_settings())


def _registry() -> "ModelRegistry":
    from service.jobs.model_use import models_of_jobs
    from service.jobs.store import ArtifactStore
    from service.model_registry import ModelRegistry

    settings = read_settings()
    store = ArtifactStore.open(settings.store_location)
    return ModelRegistry(store, settings.model_cache, used=lambda: models_of_jobs(store))


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from models.clip_folder import ClipError
    from models.config import ConfigError
    from models.convert import ConversionError
    from models.manifest import CheckpointError
    from models.torch_file import TorchFileError

    try:
        yield
    except (CheckpointError, ClipError, ConfigError, ConversionError, TorchFileError) as error:
        raise CommandError(str(error)) from error
