"""The second scorer of a run: the one that is set, or the one that comes along."""

from pathlib import Path

import pytest

from models.manifest import SECOND_SCORER
from service.errors import CommandError
from service.finetuning.orders import second_scorer_of, task_of
from service.finetuning.recipe import BEST_BY, stage_two
from service.finetuning.settings import FinetuneSettings
from service.jobs.documents import FinetuneJob, new_id, now
from service.settings import Settings
from tests.tiny import tiny_clip


def job(**settings: object) -> FinetuneJob:
    asked = FinetuneSettings.model_validate(settings).model_dump()
    return FinetuneJob(
        id=new_id("job"), created=now(), dataset="ds-1", num_items=60, base="a:b", settings=asked
    )


def test_the_one_that_is_set_judges_else_the_one_that_comes_along(tmp_path: Path) -> None:
    assert second_scorer_of(Settings()) == SECOND_SCORER
    tiny_clip(tmp_path / "own", seed=8)
    own = Settings(second_scorer=tmp_path / "own")
    assert task_of(job(), settings=own).second_scorer == str(tmp_path / "own")


def test_folder_that_holds_no_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"SEMICAP_SECOND_SCORER is .*, which holds no"):
        second_scorer_of(Settings(second_scorer=tmp_path))


def test_early_stop_goes_by_the_second_scorer(tiny_checkpoint: Path) -> None:
    judged = stage_two(task_of(job(), settings=Settings()), tiny_checkpoint, has_replay=False, base_words=9.0)
    assert judged.evaluation.second_scorer == str(SECOND_SCORER)
    assert (judged.loop.best_by, judged.loop.patience > 0) == (BEST_BY, True)
    asked = task_of(job(early_stop=False), settings=Settings())
    assert stage_two(asked, tiny_checkpoint, has_replay=False, base_words=9.0).loop.best_by == ""
