"""What a worker says of a fine-tuning job that cannot begin."""

from pathlib import Path

import pytest

from service.errors import StoreUnavailableError
from service.finetuning.runner import FinetuneRunner
from service.finetuning.settings import FinetuneSettings
from service.finetuning.task import Task
from service.jobs.documents import FinetuneJob, new_id, now
from service.jobs.parts import JobParts
from service.metrics import Metrics
from tests.service.jobs.conftest import uploaded


def test_metrics_say_that_none_is_done_after_one_that_an_error_has_ended(
    parts: JobParts, tmp_path: Path
) -> None:
    def task_for(job: FinetuneJob) -> Task:
        metrics.finetune_point({"step": 7, "loss": 1.0})
        raise StoreUnavailableError("away")

    dataset, metrics = uploaded(parts, 2), Metrics()
    job = FinetuneJob(
        id=new_id("job"),
        created=now(),
        dataset=dataset.id,
        num_items=2,
        base="a:1",
        settings=FinetuneSettings.model_validate({}).model_dump(),
    )
    parts.jobs.submit(job)
    runner = FinetuneRunner(
        parts.jobs, root=tmp_path, task_for=task_for, metrics=metrics, is_stopping=lambda: False
    )
    with pytest.raises(StoreUnavailableError):
        runner.run(job.id, 0)
    assert metrics.registry.get_sample_value("semicap_finetune_step") == 0
