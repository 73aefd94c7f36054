"""What a run found: figures on held-out photos before and after, the verdict, a page, a model card."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models.generation import GenerationOptions
from models.manifest import CARD_FILE, read_manifest
from service.finetuning.data import HELD_OUT, LABELLED_HELD_OUT, RunData
from service.finetuning.gate import Verdict
from service.finetuning.task import RunFolder, Task
from training.comparison import Comparison, compare
from training.data import Images
from training.evaluate import evaluate_checkpoint, read_evaluation_photos
from training.figures import FIGURES
from training.history import history_of
from training.page import PageTable, write_page
from training.report import Report
from training.tables import labels

NUM_BEAMS = 4
"""As the service captions by default."""

_SHOWN_IN_CARD = (
    *("cider_d", "clip_score", "r@1", "r@5", "r@10"),
    *("second_clip_score", "second_r@1", "second_r@5", "second_r@10"),
    *("distinct_captions", "vocabulary", "length_mean", "repetition"),
)


@dataclass(frozen=True)
class Findings:
    """Figures before and after.

    Args:
        labelled: on held-out labelled photos; None where there are none.
    """

    comparison: Comparison
    labelled: Comparison | None
    verdict: Verdict


def measure(checkpoint: Path, task: Task, folder: RunFolder, part: str, data: RunData) -> Report:
    """A checkpoint on one part of the photos, under the names that they have in their dataset."""
    report = evaluate_checkpoint(
        checkpoint,
        read_evaluation_photos(folder.photos / part),
        options=GenerationOptions(strategy="beam", num_beams=NUM_BEAMS),
        cache=folder.root / "cache",
        second_scorer=Path(task.second_scorer),
        device=task.device,
    )
    captions = tuple(replace(one, image=data.names.get(one.image, one.image)) for one in report.captions)
    title = {HELD_OUT: "held-out photos", LABELLED_HELD_OUT: "held-out labelled photos"}[part]
    return replace(report, data=title, captions=captions)


def write_report(findings: Findings, task: Task, data: RunData, folder: RunFolder) -> None:
    """The JSON and the page of a run, and the model's card."""
    verdict = findings.verdict
    history = history_of(folder.model)
    values = {
        "job": task.job,
        "base": task.base,
        "settings": task.settings,
        "data": {name: value for name, value in asdict(data).items() if name != "names"},
        "gate": verdict.to_dict(),
        "gate_limits": asdict(task.gate),
        "held_out": _differences(findings.comparison),
        "labelled": _differences(findings.labelled) if findings.labelled else None,
        "losses": history.losses if history else (),
        "evaluations": history.evaluations if history else (),
        "captions": _captions(findings.comparison),
    }
    folder.report.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    report = findings.comparison.report
    photos = read_evaluation_photos(folder.photos / HELD_OUT).captioned.images
    images = Images([data.names.get(name, name) for name in photos.ids], photos.files)
    first = labels([report, findings.comparison.against])[0]
    write_page(
        folder.page,
        report,
        findings.comparison,
        images=images,
        histories={first: history} if history else {},
        tables=_tables(findings, task, data),
    )
    (folder.model / CARD_FILE).write_text(_card(findings, task, data, folder), encoding="utf-8")


def compared(after: Report, before: Report) -> Comparison:
    """Two reports on the same photos."""
    return compare(after, before)


def _differences(comparison: Comparison) -> dict[str, Any]:
    return {
        "photos": comparison.report.images,
        "scorer": comparison.report.scorer,
        "second_scorer": comparison.report.second_scorer,
        "before": dict(comparison.against.figures),
        "after": dict(comparison.report.figures),
        "differences": {name: asdict(one) for name, one in comparison.differences.items()},
    }


def _captions(comparison: Comparison) -> list[dict[str, Any]]:
    pairs = zip(comparison.against.captions, comparison.report.captions, strict=True)
    return [
        {"file_name": was.image, "before": was.caption, "after": now.caption, "scores": dict(now.scores)}
        for was, now in pairs
    ]


def _tables(findings: Findings, task: Task, data: RunData) -> list[PageTable]:
    verdict = findings.verdict
    checks = [
        (
            FIGURES[check.name].full_title,
            FIGURES[check.name].shown(check.before),
            FIGURES[check.name].shown(check.after),
            f"{check.bound} {FIGURES[check.name].shown(check.limit)}",
            "yes" if check.passed else "no",
        )
        for check in verdict.checks
    ]
    tables = [
        PageTable(
            "The gate: passed" if verdict.passed else "The gate: refused",
            verdict.reason + ".",
            ("", "Before", "After", "Limit", "Passed"),
            checks,
        ),
        PageTable("How it was made", "", (), _made(task, data)),
    ]
    if findings.labelled is not None:
        tables.insert(1, _labelled_table(findings.labelled))
    return tables


def _labelled_table(comparison: Comparison) -> PageTable:
    before, after = comparison.against.figures, comparison.report.figures
    rows = [
        (figure.full_title, figure.shown(before[name]), figure.shown(after[name]))
        for name, figure in FIGURES.items()
        if name in before and name in after
    ]
    text = f"{comparison.report.images} labelled photos, held out of the replay."
    return PageTable("On labelled photos", text, ("", "Before", "After"), rows)


def _made(task: Task, data: RunData) -> list[tuple[str, str]]:
    settings = ", ".join(f"{name} {value}" for name, value in task.settings.items())
    return [
        ("Base", task.base),
        ("Job", task.job),
        ("Photos", f"{data.num_train} to train on, {data.num_held_out} held out"),
        ("Labelled photos", str(data.num_labelled) if data.num_labelled else "none"),
        ("Fingerprint of the data", data.fingerprint),
        ("Settings", settings),
    ]


def _card(findings: Findings, task: Task, data: RunData, folder: RunFolder) -> str:
    manifest = read_manifest(folder.model)
    before, after = _figures(findings)
    report = findings.comparison.report
    lines = [
        f"# {manifest.name}",
        "",
        f"Version {manifest.version}: {task.base} fine-tuned on photos without captions "
        f"(stage 2, step {manifest.provenance.step}).",
        "",
        f"Gate: {findings.verdict.reason}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _made(task, data)),
        "",
        "## Figures",
        "",
        f"{report.images} held-out photos, beam of {NUM_BEAMS}. CLIP figures are by the model's own scorer, "
        f"{report.scorer}, which it was trained against. The second "
        f"scorer, {report.second_scorer}, was in no loss.",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for name in _SHOWN_IN_CARD:
        if name in before and name in after:
            figure = FIGURES[name]
            lines.append(
                f"| {figure.full_title} | {figure.shown(before[name])} | {figure.shown(after[name])} |"
            )
    return "\n".join(lines) + "\n"


def _figures(findings: Findings) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Of the held-out photos; agreement with references from the labelled ones."""
    before, after = findings.comparison.against.figures, findings.comparison.report.figures
    if findings.labelled is None:
        return before, after
    return (
        {**before, "cider_d": findings.labelled.against.figures["cider_d"]},
        {**after, "cider_d": findings.labelled.report.figures["cider_d"]},
    )
