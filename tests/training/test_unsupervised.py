"""Stage 2 on eight photos without captions: similarity rises, the guards hold, CLIP stays."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import load_captioner
from models.manifest import read_manifest
from tests.tiny import tiny_clip
from tests.training.conftest import SCENES
from training.config import Places, SupervisedConfig, UnsupervisedConfig
from training.data import DataError, Problems
from training.supervised import run_supervised
from training.toml_reader import TrainingConfigError, config_from
from training.unsupervised import build_unsupervised, run_unsupervised

SETTINGS: dict[str, Any] = {
    "init": "start/checkpoint",
    "replay_images": 4,
    "captions_per_image": 2,
    "stored_dtype": "float32",
    "data": {"unlabelled": ["photos"], "views": ["original"], "workers": 1},
    "reward": {"contrastive": 0.0, "kl": 0.0, "length": 0.0, "repetition": 0.0, "replay": 0.0},
    "rollout": {"samples": 8, "max_tokens": 6},
    "optim": {"lr": 1e-2, "warmup_steps": 5, "weight_decay": 0.0},
    "loop": {"epochs": 60, "batch_size": 8},
}


@pytest.mark.parametrize("estimator", ["gumbel-parallel", "gumbel-recurrent", "reinforce"])
def test_similarity_of_sampled_captions_rises(places: Places, estimator: str) -> None:
    run_unsupervised(_config(rollout={"estimator": estimator}), places, Problems(), resume=False)
    similarity = _logged(places.out, "similarity")
    assert _mean(similarity[-5:]) < _mean(similarity[:5]) - 0.1


def test_clip_does_not_move_and_the_writers_do(places: Places) -> None:
    result = run_unsupervised(_config(loop={"epochs": 3}), places, Problems(), resume=False)
    before = load_captioner(places.run("start/checkpoint")).state_dict()
    after = load_captioner(result.folder).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"mapping", "decoder"}
    assert read_manifest(result.folder).provenance.stage == "unsupervised"


def test_kl_starts_at_zero_and_a_heavy_one_holds_the_decoder_back(places: Places) -> None:
    free = Places(places.data, places.run("free"))
    run_unsupervised(_config(reward={"kl": 1e-6}, loop={"epochs": 20}), free, Problems(), resume=False)
    run_unsupervised(_config(reward={"kl": 10.0}, loop={"epochs": 20}), places, Problems(), resume=False)
    held = _logged(places.out, "kl")
    assert held[0] == pytest.approx(0.0, abs=1e-5)
    assert _mean(held[-5:]) < 0.2 * _mean(_logged(free.out, "kl")[-5:])


def test_length_term_shortens_captions(places: Places) -> None:
    reward = {"similarity": 0.0, "length": 20.0, "target_length": 2.0}
    run_unsupervised(_config(reward=reward, loop={"epochs": 60}), places, Problems(), resume=False)
    tokens = _logged(places.out, "tokens")
    assert _mean(tokens[:3]) > 5
    assert _mean(tokens[-5:]) < 3.5


@pytest.mark.parametrize("estimator", ["gumbel-parallel", "reinforce"])
def test_repetition_term_stops_repeating(places: Places, estimator: str) -> None:
    """Cold samples of a random decoder say one word over and over."""
    reward = {"similarity": 0.0, "repetition": 5.0}
    rollout = {"estimator": estimator, "temperature": 0.05, "max_tokens": 12}
    run_unsupervised(_config(reward=reward, rollout=rollout), places, Problems(), resume=False)
    repeated = _logged(places.out, "repetition")
    assert _mean(repeated[:3]) > 0.004
    assert _mean(repeated[-5:]) < 0.3 * _mean(repeated[:3])


def test_replayed_photos_can_be_rewarded_for_agreeing_with_people(places: Places) -> None:
    reward = {"replay": 0.0, "replay_cider": 1.0, "similarity": 0.0}
    config = _config(data={"labelled": ["photos"]}, reward=reward)
    run_unsupervised(config, places, Problems(), resume=False)
    assert _mean(_logged(places.out, "replay_cider")[-5:]) < _mean(_logged(places.out, "replay_cider")[:3])


def test_replay_keeps_learning_the_labelled_pairs(places: Places) -> None:
    config = _config(data={"labelled": ["photos"]}, reward={"replay": 1.0, "similarity": 0.1})
    run_unsupervised(config, places, Problems(), resume=False)
    replay = _logged(places.out, "replay")
    assert _mean(replay[-5:]) < 0.5 * _mean(replay[:3])


def test_contrastive_reward_is_logged_and_lowers_its_loss(places: Places) -> None:
    config = _config(reward={"similarity": 0.0, "contrastive": 1.0, "contrastive_temperature": 0.05})
    run_unsupervised(config, places, Problems(), resume=False)
    contrastive = _logged(places.out, "contrastive")
    assert _mean(contrastive[-5:]) < _mean(contrastive[:5])


def test_rewards_mix_by_their_weights_under_reinforce(places: Places) -> None:
    reward = {"similarity": 0.5, "contrastive": 0.5, "contrastive_temperature": 0.05}
    run_unsupervised(
        _config(reward=reward, rollout={"estimator": "reinforce"}), places, Problems(), resume=False
    )
    for name in ("similarity", "contrastive"):
        logged = _logged(places.out, name)
        assert _mean(logged[-5:]) < _mean(logged[:5])


def test_second_scorer_stops_the_run_and_picks_the_result(places: Places) -> None:
    """The second scorer is another random CLIP, which knows nothing of what training is after."""
    tiny_clip(places.run("second"), seed=7)
    config = _config(
        data={"validation": "photos"},
        evaluation={"second_scorer": "second"},
        loop={"epochs": 200, "evaluate_every": 5, "best_by": "second_r@1", "patience": 2},
    )
    result = run_unsupervised(config, places, Problems(), resume=False)
    evaluations = [line for line in _lines(places.out) if "evaluation" in line]
    figures = [line["evaluation"]["second_r@1"] for line in evaluations]
    best = figures.index(max(figures))
    assert evaluations[0]["step"] == 0
    assert result.step < 200
    assert len(figures) == best + 1 + 2, "it ends two evaluations after the best"
    assert read_manifest(result.folder).provenance.step == evaluations[best]["step"]


def test_best_figure_without_validation_is_refused(places: Places) -> None:
    with pytest.raises(TrainingConfigError, match=r"is 'cider_d', which needs data\.validation"):
        run_unsupervised(_config(loop={"best_by": "cider_d"}), places, Problems(), resume=False)


def test_unknown_best_figure_is_refused_before_the_first_step(places: Places) -> None:
    config = _config(data={"validation": "photos"}, loop={"best_by": "cider"})
    with pytest.raises(TrainingConfigError, match=r"figures are cider_d, "):
        run_unsupervised(config, places, Problems(), resume=False)
    assert _logged(places.out, "loss") == []


def test_stages_can_follow_each_other_either_way(places: Places) -> None:
    second = run_unsupervised(
        _config(loop={"epochs": 1}), Places(places.data, places.run("second")), Problems(), resume=False
    )
    first_again = config_from(
        SupervisedConfig,
        {"init": "second/model", "data": {"labelled": ["photos"]}, "loop": {"epochs": 1, "batch_size": 8}},
    )
    result = run_supervised(first_again, places, Problems(), resume=False)
    assert read_manifest(result.folder).provenance.parent == read_manifest(second.folder).version


def test_resumed_run_keeps_the_first_checkpoint_as_its_reference(places: Places) -> None:
    config = _config(reward={"kl": 0.1}, loop={"epochs": 8, "save_every": 4})
    unbroken = run_unsupervised(config, Places(places.data, places.run("unbroken")), Problems(), resume=False)
    run_unsupervised(
        _config(reward={"kl": 0.1}, loop={"epochs": 8, "save_every": 4}), places, Problems(), resume=False
    )
    for folder in sorted((places.out / "states").iterdir())[1:]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    resumed = run_unsupervised(config, places, Problems(), resume=True)
    expected, actual = (
        load_captioner(unbroken.folder).state_dict(),
        load_captioner(resumed.folder).state_dict(),
    )
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-6)


def test_captions_longer_than_clip_reads_are_refused_before_training(places: Places) -> None:
    with pytest.raises(TrainingConfigError, match="CLIP's text tower reads 30 words"):
        run_unsupervised(_config(rollout={"max_tokens": 31}), places, Problems(), resume=False)


def test_captions_longer_than_the_decoder_writes_are_refused_before_training(places: Places) -> None:
    """The tiny decoder has 40 positions, 3 of which are the prefix; its CLIP reads fewer words."""
    with pytest.raises(TrainingConfigError, match=r"rollout\.max_tokens.*\n.*is 39; .*writes 38 tokens"):
        run_unsupervised(_config(rollout={"max_tokens": 39}), places, Problems(), resume=False)


@pytest.mark.parametrize("root", ["data", "absolute", "link", "absolute link", "link/../data"])
@pytest.mark.parametrize("unlabelled", ["photos", "captions_photos.json", "linked", "links"])
@pytest.mark.parametrize("labelled", ["photos", "captions_photos.json", "linked"])
def test_labelled_photos_are_told_apart_by_the_file_and_not_by_its_path(
    places: Places, monkeypatch: pytest.MonkeyPatch, root: str, labelled: str, unlabelled: str
) -> None:
    base = places.data.parent
    _write_coco(places.data)
    (places.data / "linked").symlink_to("photos")
    (places.data / "links").mkdir()
    for photo in (places.data / "photos").glob("*.png"):
        (places.data / "links" / f"link to {photo.name}").symlink_to(photo)
    (base / "link").symlink_to("data")
    monkeypatch.chdir(base)
    absolute = {"absolute": base / "data", "absolute link": base / "link"}
    reached = Places(absolute.get(root, Path(root)), places.out)
    config = _config(
        data={"labelled": [labelled], "unlabelled": [unlabelled], "max_labelled": 5, "disjoint": True}
    )
    stage = build_unsupervised(config, reached, Problems(), device=torch.device("cpu"))
    assert stage.items == len(SCENES) - 5


def test_photos_of_shards_are_told_apart_too(places: Places) -> None:
    with tarfile.open(places.data / "photos.tar", "w") as shard:
        for name, (_, caption) in SCENES.items():
            shard.add(places.data / "photos" / name, name)
            text = places.data / f"{Path(name).stem}.txt"
            text.write_text(caption)
            shard.add(text, text.name)
    (places.data / "link.tar").symlink_to("photos.tar")
    config = _config(
        data={"labelled": ["link.tar"], "unlabelled": ["photos.tar"], "max_labelled": 5, "disjoint": True}
    )
    stage = build_unsupervised(config, places, Problems(), device=torch.device("cpu"))
    assert stage.items == len(SCENES) - 5


def test_nothing_left_beside_the_labelled_photos_is_said(places: Places) -> None:
    config = _config(data={"labelled": ["photos"], "disjoint": True})
    with pytest.raises(DataError, match=r"data\.disjoint leaves none of 8 unlabelled photos"):
        run_unsupervised(config, places, Problems(), resume=False)


def _write_coco(folder: Path) -> None:
    """COCO captions of the photos in `photos`."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(SCENES)]
    annotations = [
        {"image_id": number, "caption": caption} for number, (_, caption) in enumerate(SCENES.values())
    ]
    (folder / "captions_photos.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def _config(**changes: Any) -> UnsupervisedConfig:
    merged = dict(SETTINGS)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return config_from(UnsupervisedConfig, merged)


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def _logged(out: Path, name: str) -> list[float]:
    return [line[name] for line in _lines(out) if name in line]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
