"""From the service's settings and a job to what a run is told."""

from pathlib import Path

from service.errors import CommandError
from service.finetuning.gate_limits import GateLimits
from service.finetuning.task import Task
from service.jobs.documents import FinetuneJob
from service.settings import Settings

_CLIP_CONFIG = "open_clip_config.json"


def task_of(job: FinetuneJob, *, settings: Settings) -> Task:
    """What the process of a job's run is told."""
    return Task(
        job=job.id,
        store=settings.store_location,
        dataset=job.dataset,
        replay_dataset=job.replay_dataset,
        base=job.base,
        models_cache=str(settings.model_cache.resolve()),
        auto_activate=job.auto_activate,
        second_scorer=str(second_scorer_of(settings)),
        settings=job.settings,
        gate=gate_limits_of(settings),
        device=settings.device,
        threads=settings.finetune_threads,
        decode_threads=settings.decode_threads,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        save_every_minutes=settings.finetune_save_minutes,
    )


def second_scorer_of(settings: Settings) -> Path:
    """The CLIP folder that judges.

    Raises:
        CommandError: there is none where it is set to be.
    """
    folder = settings.second_scorer.resolve()
    if not (folder / _CLIP_CONFIG).is_file():
        raise CommandError(
            f"SEMICAP_SECOND_SCORER is {folder}, which holds no {_CLIP_CONFIG}; "
            "training/recipes/second-scorer makes such a folder"
        )
    return folder


def gate_limits_of(settings: Settings) -> GateLimits:
    """The gate's limits as the operator has set them."""
    return GateLimits(
        score_percent=settings.gate_score_percent,
        recall_points=settings.gate_recall_points,
        distinct_points=settings.gate_distinct_points,
        repetition_points=settings.gate_repetition_points,
        length_percent=settings.gate_length_percent,
        cider_percent=settings.gate_cider_percent,
    )
