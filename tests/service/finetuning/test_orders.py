"""The second scorer of a run: the one that is set, the one that comes along, or none."""

from pathlib import Path

import pytest

from service.errors import CommandError
from service.finetuning import orders
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


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the scorer that comes along would lie."""
    folder = tmp_path / "second-scorer"
    monkeypatch.setattr(orders, "SHIPPED_SECOND_SCORER", folder)
    return folder


def test_the_one_that_is_set_goes_before_the_one_that_comes_along(shipped: Path, tmp_path: Path) -> None:
    assert second_scorer_of(Settings()) is None
    tiny_clip(shipped, seed=7)
    assert second_scorer_of(Settings()) == shipped
    tiny_clip(tmp_path / "own", seed=8)
    own = Settings(second_scorer=tmp_path / "own")
    assert second_scorer_of(own) == tmp_path / "own"
    assert task_of(job(), settings=own).second_scorer == str(tmp_path / "own")


def test_folder_that_holds_no_clip_is_named(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match=r"SEMICAP_SECOND_SCORER is .*empty, which holds no"):
        second_scorer_of(Settings(second_scorer=tmp_path / "empty"))
    shipped.mkdir()
    assert second_scorer_of(Settings()) is None, "a folder with nothing in it is no scorer"


def test_early_stop_goes_by_the_second_scorer_and_is_off_without_one(
    shipped: Path, tiny_checkpoint: Path
) -> None:
    alone = stage_two(task_of(job(), settings=Settings()), tiny_checkpoint, has_replay=False, base_words=9.0)
    assert (alone.loop.best_by, alone.loop.patience, alone.evaluation.second_scorer) == ("", 0, "")
    tiny_clip(shipped, seed=7)
    task = task_of(job(), settings=Settings())
    judged = stage_two(task, tiny_checkpoint, has_replay=False, base_words=9.0)
    assert judged.evaluation.second_scorer == str(shipped)
    assert (judged.loop.best_by, judged.loop.patience > 0) == (BEST_BY, True)
    asked = task_of(job(early_stop=False), settings=Settings())
    assert stage_two(asked, tiny_checkpoint, has_replay=False, base_words=9.0).loop.best_by == ""
