"""A job in the terminal until its end: a bar, and the curve of a fine-tuning."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.jobs.client import JobClient, quoted

POLL_S = 0.5
SOME_FAILED = 1

_SHOWN = {
    "loss": "loss",
    "clip_similarity": "similarity",
    "second_similarity": "by the second scorer",
    "distinct_captions": "distinct %",
    "repetition": "repeated %",
}


def watch_job(client: JobClient, job_id: str) -> int:
    """Shows a bar until the job has ended; 1 when some photos failed or it did not succeed.

    Ctrl-C ends the looking on, not the job.
    """
    console = Console(stderr=True)
    try:
        job = _followed(client, job_id, console)
    except KeyboardInterrupt:
        going_on = f"the job goes on; semicap jobs status {job_id} --watch shows it again"
        console.print(going_on, highlight=False, markup=False, soft_wrap=True)
        raise
    console.print(_ending(job), highlight=False, markup=False, soft_wrap=True)
    failed = job["kind"] == "captions" and job["counts"]["failed"]
    return 0 if job["state"] == "succeeded" and not failed else SOME_FAILED


def _followed(client: JobClient, job_id: str, console: Console) -> dict[str, Any]:
    """The job as it ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = -1.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("queued", total=None)
        while True:
            job = client.ask("GET", f"/v1/jobs/{quoted(job_id)}")
            progress.update(task, **_bar(job))
            told = _tell_curve(console, job.get("curve") or [], after=told)
            if job["ended"]:
                return job
            time.sleep(POLL_S)


def _bar(job: dict[str, Any]) -> dict[str, Any]:
    counts, steps = job["counts"], job["progress"]
    if steps is not None:
        return {
            "description": steps["phase"] if job["state"] == "running" else job["state"],
            "total": steps["steps"],
            "completed": steps["step"],
        }
    settled = counts["done"] + counts["failed"] + counts["skipped"]
    return {"description": job["state"], "total": counts["total"], "completed": settled}


def _tell_curve(console: Console, curve: list[dict[str, float]], *, after: float) -> float:
    """Prints the looks at held-out photos that are new; the step of the last one."""
    for point in curve:
        if point["step"] > after and "clip_similarity" in point:
            figures = [f"{title} {point[name]:.3f}" for name, title in _SHOWN.items() if name in point]
            console.print(f"step {point['step']:.0f}: {', '.join(figures)}", highlight=False, soft_wrap=True)
            after = point["step"]
    return after


def _ending(job: dict[str, Any]) -> str:
    counts = job["counts"]
    if job["kind"] == "captions":
        why = f"; semicap jobs errors {job['id']} says why" if counts["failed"] else ""
        wrong = f" ({job['error']})" if job["error"] else ""
        return (
            f"{job['state']}{wrong}: {counts['done']} captioned, {counts['failed']} failed, "
            f"{counts['skipped']} skipped{why}"
        )
    if not job["model"]:
        return f"{job['state']}: {job['error'] or 'no version was made'}"
    activated = ", and answers now" if job["model"]["is_activated"] else ""
    return f"{job['state']}: {job['model']['id']}{activated}; gate {job['model']['gate']['reason']}"
