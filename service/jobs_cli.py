"""`semicap jobs`: submit, watch and end jobs of a running service."""

import json
import sys
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer

from service.bucket_uri import plain_uri
from service.errors import CommandError
from service.jobs.client import DEFAULT_URL, URL_VARIABLE, JobClient, quoted
from service.jobs.watching import watch_job
from service.settings import read_settings

jobs_app = typer.Typer(
    help="Jobs over many photos, on a running service.", no_args_is_help=True, rich_markup_mode=None
)
submit_app = typer.Typer(help="Start a job.", no_args_is_help=True, rich_markup_mode=None)
jobs_app.add_typer(submit_app, name="submit")

JobId = Annotated[str, typer.Argument(help="Id of the job.")]
Url = Annotated[str | None, typer.Option(help=f"Address of the service [{URL_VARIABLE}, {DEFAULT_URL}].")]
Policy = Literal["skip", "append", "prepend", "overwrite-machine", "overwrite"]


@submit_app.command("captions", epilog="Example: semicap jobs submit captions PHOTOS/ --output csv --watch")
def submit_captions(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID|URI",
            help="Folder, archive or photo to upload, a dataset's id, or s3://, gs://, az://.",
        ),
    ],
    on_server: Annotated[
        bool, typer.Option("--on-server", help="PATH is a folder of the server; nothing is sent.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(help="Caption option, as num_beams=3; may be given several times.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            help="Also make: txt, caption, csv, metadata, xmp, webdataset; several times for several."
        ),
    ] = None,
    write_to_folder: Annotated[
        bool, typer.Option("--write-to-folder", help="Write a text beside each photo on the server.")
    ] = False,
    sidecar: Annotated[Literal["txt", "caption"], typer.Option(help="Suffix of those texts.")] = "txt",
    policy: Annotated[Policy, typer.Option(help="What becomes of a text that is there.")] = "skip",
    duplicates: Annotated[
        Literal["ignore", "report", "caption-once"],
        typer.Option(help="Near-duplicates: list them (results --output duplicates), or caption one each."),
    ] = "ignore",
    webhook: Annotated[str | None, typer.Option(help="Address that is told of the end.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end with a progress bar.")] = False,
    url: Url = None,
) -> int:
    """Caption many photos on the service; prints the job's id."""
    client = JobClient(url)
    asked: dict[str, Any] = {
        "options": _options(option or [], flag="--option"),
        "outputs": output or [],
        "write_to_folder": write_to_folder,
        "sidecar": sidecar,
        "policy": policy,
        "duplicates": duplicates,
        "webhook": {"url": webhook} if webhook else None,
        **_source(client, source, on_server=on_server),
    }
    return _submit(client, "captions", asked, watch=watch)


@submit_app.command(
    "finetune", epilog="Example: semicap jobs submit finetune PHOTOS/ --setting steps=200 --watch"
)
def submit_finetune(
    source: Annotated[
        str,
        typer.Argument(metavar="PATH|ID", help="Folder or archive of photos to upload, or a dataset's id."),
    ],
    on_server: Annotated[
        bool, typer.Option("--on-server", help="PATH is a folder of the server; nothing is sent.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="Version to start from; else the one that answers.")
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="Labelled photos: a folder with metadata.jsonl, or a dataset."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="As steps=200; may be given several times.")
    ] = None,
    auto_activate: Annotated[
        bool, typer.Option("--auto-activate", help="Let it answer at once, if it passes the gate.")
    ] = False,
    webhook: Annotated[str | None, typer.Option(help="Address that is told of the end.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for the end with a bar and the curve.")
    ] = False,
    url: Url = None,
) -> int:
    """Adapt a model to photos without captions; prints the job's id."""
    client = JobClient(url)
    asked: dict[str, Any] = {
        "base": base,
        "replay_dataset": _dataset_of(client, replay) if replay else None,
        "settings": _options(setting or [], flag="--setting"),
        "auto_activate": auto_activate,
        "webhook": {"url": webhook} if webhook else None,
        **_source(client, source, on_server=on_server),
    }
    return _submit(client, "finetunes", asked, watch=watch)


@jobs_app.command()
def status(
    job: JobId,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end with a bar.")] = False,
    url: Url = None,
) -> int:
    """Where a job stands, as JSON."""
    client = JobClient(url)
    if watch:
        return watch_job(client, job)
    typer.echo(json.dumps(client.ask("GET", f"/v1/jobs/{quoted(job)}"), indent=2))
    return 0


@jobs_app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20, url: Url = None
) -> None:
    """The newest jobs, one a line."""
    for job in JobClient(url).ask("GET", f"/v1/jobs?limit={limit}")["data"]:
        typer.echo(f"{job['id']}  {job['kind']:<8}  {job['state']:<9}  {_how_far(job)}")


@jobs_app.command()
def results(
    job: JobId,
    output: Annotated[str, typer.Option(help="jsonl, or an output of the job.")] = "jsonl",
    url: Url = None,
) -> None:
    """A job's captions on standard output."""
    for piece in JobClient(url).pieces(f"/v1/jobs/{quoted(job)}/results?output={quoted(output)}"):
        sys.stdout.buffer.write(piece)


@jobs_app.command()
def errors(job: JobId, url: Url = None) -> None:
    """Photos that failed, as JSON lines."""
    for line in JobClient(url).lines(f"/v1/jobs/{quoted(job)}/errors"):
        sys.stdout.buffer.write(line)


@jobs_app.command()
def retry(job: JobId, url: Url = None) -> None:
    """Run again what failed and may succeed now."""
    answer = JobClient(url).ask("POST", f"/v1/jobs/{quoted(job)}/retry")
    typer.echo(
        f"{answer['retried']} photos run again" if answer["retried"] else "the job's files are made again"
    )


@jobs_app.command()
def cancel(job: JobId, url: Url = None) -> None:
    """End a job within a batch; what is captioned stays."""
    typer.echo(JobClient(url).ask("DELETE", f"/v1/jobs/{quoted(job)}")["state"])


@jobs_app.command()
def pause(job: JobId, url: Url = None) -> None:
    """Let a job rest, also over restarts."""
    typer.echo(JobClient(url).ask("POST", f"/v1/jobs/{quoted(job)}/pause")["state"])


@jobs_app.command()
def resume(job: JobId, url: Url = None) -> None:
    """Go on with a paused job."""
    typer.echo(JobClient(url).ask("POST", f"/v1/jobs/{quoted(job)}/resume")["state"])


@jobs_app.command()
def recover() -> None:
    """Rebuild what the broker has lost.

    The store still has it. A running service does this by itself.
    """
    from service.jobs.parts import JobParts
    from service.supervision.broker import running_broker_url

    settings = read_settings()
    url = settings.redis_url or running_broker_url(settings.data_dir / "broker")
    parts = JobParts.build(settings.model_copy(update={"redis_url": url}))
    parts.keeper.look_back()
    done = parts.keeper.look()
    for job, what in done.items():
        typer.echo(f"{job}: {what}")
    typer.echo(f"{len(parts.jobs.archive.active())} jobs are not over")


def _how_far(job: dict[str, Any]) -> str:
    counts, steps = job["counts"], job["progress"]
    if steps is None:
        return (
            f"{counts['done']} done, {counts['failed']} failed, {counts['skipped']} skipped "
            f"of {counts['total']}"
        )
    made = f", {job['model']['id']}" if job["model"] else ""
    return f"{counts['total']} photos, {steps['phase']}, step {steps['step']} of {steps['steps']}{made}"


def _submit(client: JobClient, kind: str, asked: dict[str, Any], *, watch: bool) -> int:
    job = client.ask(
        "POST",
        f"/v1/jobs/{kind}",
        body=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": uuid4().hex},
    )
    typer.echo(job["id"])
    return watch_job(client, job["id"]) if watch else 0


def _options(pairs: list[str], *, flag: str) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        name, is_given, value = pair.partition("=")
        if not is_given:
            raise CommandError(f"{flag} is {pair!r}; it must be NAME=VALUE, as seed=3")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _source(client: JobClient, source: str, *, on_server: bool) -> dict[str, str]:
    if on_server:
        return {"folder": source}
    if plain_uri(source) is not None:
        return {"uri": source}
    return {"dataset": _dataset_of(client, source)}


def _dataset_of(client: JobClient, source: str) -> str:
    from service.jobs.sending import dataset_of

    return dataset_of(client, source)
