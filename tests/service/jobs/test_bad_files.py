"""A thousand photos, forty of them broken in every way there is, through the engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.engine.engine import Engine
from service.engine.settings import EngineSettings
from service.images import ImageLimits
from service.jobs.captioner import ItemCaptioner
from service.jobs.failures import worth_retrying
from service.jobs.outputs import captioned, errors
from service.jobs.parts import JobParts
from service.registry import ServedModel
from service.serving import Loaded
from tests.service.jobs.conftest import dataset_of, job_on, photo, photo_folder
from tests.service.jobs.fakes import InlineWorker, OneModel

GOOD, REPAIRED = 960, 10
LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6)


@pytest.mark.parametrize(
    "options", [{"prefix": "the dog runs on grass", "max_tokens": 2}, {"num_beams": 99}, {"colour": "red"}]
)
def test_options_that_the_model_cannot_do_are_each_photos_error_line(
    options: dict[str, Any], parts: JobParts, tiny_model: ServedModel, tmp_path: Path
) -> None:
    job = job_on(dataset_of(parts, photo_folder(tmp_path / "photos", good=3)), options=options)
    parts.jobs.submit(job)
    with _captioner(parts, tiny_model) as captioner:
        InlineWorker(parts, captioner=captioner).do_all()
    assert parts.jobs.status(job.id).counts.failed == 3
    kinds = {line["problem"]["type"].rpartition(":")[2] for line in errors(parts.jobs.results(job.id))}
    assert kinds <= {"invalid-option", "unknown-option"}


@pytest.mark.slow
def test_forty_broken_among_a_thousand_are_forty_error_lines_and_a_retry_runs_the_repaired(
    parts: JobParts, tiny_model: ServedModel, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", good=GOOD)
    broken = {
        "empty": b"",
        "text": b"this is no photo",
        "half": photo()[: len(photo()) // 2],
        "header": photo()[:20],
    }
    names = [f"{GOOD + number:04d}-{kind}.jpg" for number, kind in enumerate([*broken] * 9)]
    for name in names:
        (folder / name).write_bytes(broken[name.split("-")[1].removesuffix(".jpg")])
    for number in range(4):
        names.append(f"{GOOD + 36 + number:04d}-large.png")
        Image.new("1", (1001, 1000)).save(folder / names[-1])
    job = job_on(dataset_of(parts, folder), chunk_items=128, options={"strategy": "greedy", "max_tokens": 2})
    parts.jobs.submit(job)
    with _captioner(parts, tiny_model) as captioner:
        worker = InlineWorker(parts, captioner=captioner, save_s=3)
        worker.do_all()
        status = parts.jobs.status(job.id)
        assert (status.state, status.counts.done, status.counts.failed) == ("succeeded", GOOD, 40)
        lines = list(errors(parts.jobs.results(job.id)))
        assert [line["file_name"] for line in lines] == sorted(names)
        assert {line["problem"]["type"].rpartition(":")[2] for line in lines} == {
            "broken-image",
            "unsupported-image-format",
            "image-too-large",
        }
        assert all(len(line["problem"]["detail"]) > 10 for line in lines)

        for name in names[:REPAIRED]:
            (folder / name).write_bytes(photo(7))
        _, retried = parts.jobs.retry(job.id, may_succeed=worth_retrying(parts.datasets, job))
        worker.do_all()
    status = parts.jobs.status(job.id)
    assert retried == REPAIRED
    assert (status.counts.done, status.counts.failed) == (GOOD + REPAIRED, 40 - REPAIRED)
    assert len(list(captioned(parts.jobs.results(job.id)))) == GOOD + REPAIRED


@contextmanager
def _captioner(parts: JobParts, model: ServedModel) -> Iterator[ItemCaptioner]:
    engine = Engine(model.captioner, settings=EngineSettings(precision="fp32"))
    engine.start()
    try:
        models = OneModel(Loaded(model, engine))
        yield ItemCaptioner(models, parts.datasets, limits=LIMITS, decode_threads=2)
    finally:
        engine.stop(drain_s=0)
