"""semicap evaluate as a person calls it: the table, the JSON, the page, and what it says of wrong data."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.tiny import tiny_checkpoint
from tests.training.conftest import SCENES
from training import evaluate_command
from training.config import Places
from training.journal import LOG
from training.report import read_report

app = typer.Typer()
app.command()(evaluate_command.evaluate)

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--num-beams", "2", "--max-tokens", "8")


@pytest.fixture
def checkpoint(places: Places) -> Path:
    return places.run("start/checkpoint")


@pytest.fixture
def photos(places: Places) -> Path:
    return places.data / "photos"


def test_table_and_json_hold_every_figure(
    checkpoint: Path, photos: Path, places: Places, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    scorer = places.run("start/parts/clip")
    code, output = _call(checkpoint, photos, "--json", file, "--limit", 6, "--second-scorer", scorer, *FAST)
    assert code == 0, output
    report = json.loads(file.read_text())
    assert report["images"] == len(report["captions"]) == 6
    assert report["decoding"]["num_beams"] == 2
    assert report["scorer"].startswith("tiny-clip (")
    figures = report["figures"]
    assert {"cider_d", "bleu_1", "bleu_4", "rouge_l"} <= set(figures)
    assert {"clip_similarity", "clip_score", "ref_clip_score", "r@1", "r@5", "r@10"} <= set(figures)
    assert {"distinct_captions", "vocabulary", "length_mean", "length_std", "repetition"} <= set(figures)
    assert figures["second_clip_score"] == pytest.approx(figures["clip_score"], abs=1e-6)
    assert "against" not in report
    for title in ("CIDEr-D", "BLEU-4", "RefCLIPScore", "Repetition"):
        assert title in output


def test_scores_of_the_photos_have_the_figure_as_their_mean(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    assert _call(checkpoint, photos, "--json", file, *FAST)[0] == 0
    report = json.loads(file.read_text())
    first = report["captions"][0]["scores"]
    assert {"cider_d", "rouge_l", "clip_similarity", "r@1", "length_mean"} <= set(first)
    for name in first:
        mean = sum(image["scores"][name] for image in report["captions"]) / report["images"]
        assert report["figures"][name] == pytest.approx(mean, rel=1e-9)


def test_a_checkpoint_does_not_differ_from_itself(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code, output = _call(checkpoint, photos, "--against", checkpoint, "--json", file, *FAST)
    assert code == 0, output
    report = json.loads(file.read_text())
    assert report["against"]["captions"] == report["captions"]
    assert set(report["differences"]) == set(report["figures"])
    assert all(difference["value"] == 0 for difference in report["differences"].values())
    assert report["differences"]["cider_d"] == {"value": 0, "low": 0, "high": 0}
    assert report["differences"]["bleu_4"] == {"value": 0, "low": None, "high": None}
    assert "95 % interval" in output
    assert f"supervised, step 1 ({report['version']}): tiny {report['version']}, scorer tiny-clip" in output
    assert "0.000 to 0.000" in output  # on one line, in the 80 columns of a terminal


def test_figures_of_different_own_scorers_are_not_compared(
    checkpoint: Path, photos: Path, places: Places, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    scorer = places.run("start/parts/clip")
    arguments = ("--against", other, "--json", file, "--second-scorer", scorer)
    code, output = _call(checkpoint, photos, *arguments, *FAST)
    assert code == 0, output
    differences = json.loads(file.read_text())["differences"]
    assert {"clip_score", "r@1"}.isdisjoint(differences)
    assert {"cider_d", "second_clip_score", "second_r@1", "repetition"} <= set(differences)
    assert "different CLIPs of their own" in output


def test_photos_without_captions_are_measured_by_clip_and_language(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "metadata.jsonl").unlink()
    files = tmp_path / "report.json", tmp_path / "page.html"
    code, output = _call(checkpoint, photos, "--json", files[0], "--html", files[1], *FAST)
    assert code == 0, output
    assert "No captions lie beside these photos" in output
    figures = json.loads(files[0].read_text())["figures"]
    assert {"clip_score", "r@1", "length_mean", "vocabulary"} <= set(figures)
    assert {"cider_d", "bleu_4", "rouge_l", "ref_clip_score"}.isdisjoint(figures)
    assert "No captions lie beside these photos" in files[1].read_text()


def test_page_shows_a_bounded_number_of_photos(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    code, output = _call(checkpoint, photos, "--html", file, "--photos", 5, *FAST)
    assert code == 0, output
    page = file.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 5
    assert "While training" not in page


def test_page_draws_the_curves_of_the_run_that_the_checkpoint_lies_in(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluations = [{"step": step, "evaluation": {"cider_d": 40 + step, "r@1": step}} for step in (10, 20)]
    (checkpoint.parent / LOG).write_text("".join(json.dumps(record) + "\n" for record in evaluations))
    file = tmp_path / "page.html"
    code, output = _call(checkpoint, photos, "--html", file, *FAST)
    assert code == 0, output
    page = file.read_text()
    assert "While training: supervised, step 1" in page
    assert "CIDEr-D against R@1 over the steps" in page


def test_shards_and_karpathy_files_have_pages_too(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    shard, split = tmp_path / "photos-000.tar", tmp_path / "split.json"
    names = list(SCENES)[:3]
    with tarfile.open(shard, "w") as tar:
        for name in names:
            tar.add(photos / name, name)
            caption = tmp_path / f"{Path(name).stem}.txt"
            caption.write_text(SCENES[name][1])
            tar.add(caption, caption.name)
    images = [{"filename": name, "split": "val", "sentences": [{"raw": SCENES[name][1]}]} for name in names]
    (photos / split.name).write_text(json.dumps({"images": images}))
    for source in (shard, photos / f"{split.name}#val"):
        file = tmp_path / "page.html"
        code, output = _call(checkpoint, source, "--html", file, *FAST)
        assert code == 0, output
        assert "CIDEr-D" in output
        assert file.read_text().count('src="data:image/jpeg;base64,') == len(names)


def test_unreadable_photo_is_left_out_and_counted(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "red.png").write_bytes(b"no picture")
    file = tmp_path / "report.json"
    code, output = _call(checkpoint, photos, "--json", file, "--against", checkpoint, *FAST)
    assert code == 0, output
    report = json.loads(file.read_text())
    assert report["images"] == len(SCENES) - 1
    assert report["skipped"] == report["against"]["skipped"] == {"unreadable image": 1}
    assert "Left out: 1 x unreadable image." in output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "green.png", "captions": ["a"', "is not JSON"),
        ('{"captions": ["a dog"]}', "file_name"),
        ('{"file_name": 7, "captions": ["a dog"]}', "file_name"),
        ('{"file_name": "green.png", "captions": "a dog"}', "captions must be a list of strings"),
        ('{"file_name": "green.png", "captions": ["a dog", 3]}', "captions must be a list of strings"),
        ("[1, 2]", "not an object"),
    ],
)
def test_wrong_line_is_named_with_file_and_number(
    checkpoint: Path, photos: Path, line: str, said: str
) -> None:
    metadata = photos / "metadata.jsonl"
    metadata.write_text('{"file_name": "red.png", "captions": ["a dog"]}\n' + line + "\n")
    message = _refused(checkpoint, photos)
    assert message.startswith(f"error: {metadata}:2")
    assert said in message


def test_metadata_that_names_no_photo_there_is_refused(checkpoint: Path, photos: Path) -> None:
    metadata = photos / "metadata.jsonl"
    metadata.write_text('{"file_name": "gone.png", "captions": ["a dog"]}\n')
    assert str(metadata) in _refused(checkpoint, photos)


def test_folder_without_a_readable_photo_is_refused(checkpoint: Path, photos: Path) -> None:
    for name in SCENES:
        (photos / name).write_bytes(b"no picture")
    message = _refused(checkpoint, photos)
    assert "no photo of photos can be read" in message
    assert str(photos / "red.png") in message


def test_data_that_is_no_folder_of_photos_is_refused(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    metadata, missing, empty = photos / "metadata.jsonl", tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert f"{metadata} is a file" in _refused(checkpoint, metadata)
    assert f"{missing} does not exist" in _refused(checkpoint, missing)
    assert f"{empty} has no images" in _refused(checkpoint, empty)


def test_what_is_no_checkpoint_is_one_line(photos: Path, tmp_path: Path) -> None:
    assert _refused(tmp_path, photos) == f"error: {tmp_path} is not a checkpoint: it has no config.json"


def test_result_that_cannot_be_written_is_refused_before_the_work(checkpoint: Path, tmp_path: Path) -> None:
    """The data are missing as well, but that would be found later."""
    message = _refused(checkpoint, tmp_path / "missing", "--html", tmp_path / "nowhere" / "page.html")
    assert f"{tmp_path / 'nowhere'} is not a folder" in message


def test_photos_of_any_mode_make_a_thumbnail(checkpoint: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "odd", tmp_path / "page.html"
    folder.mkdir()
    for mode in ("RGBA", "L", "P", "CMYK", "I;16"):
        Image.new(mode, (700, 90)).save(
            folder / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        )
    code, output = _call(checkpoint, folder, "--html", file, *FAST)
    assert code == 0, output
    assert file.read_text().count('src="data:image/jpeg;base64,') == 5


def test_heic_makes_a_thumbnail_where_its_features_are_cached(checkpoint: Path, tmp_path: Path) -> None:
    """By a process of its own: reading a photo would tell Pillow of the format."""
    pillow_heif = pytest.importorskip("pillow_heif")
    folder, page = tmp_path / "phone", tmp_path / "page.html"
    folder.mkdir()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(folder / "a.heic")
    arguments = [checkpoint, folder, "--cache", tmp_path / "cache", *FAST]
    assert _call(*arguments)[0] == 0
    command = [sys.executable, "-m", "service.cli", "evaluate", *arguments]
    subprocess.run([*map(str, command), "--html", str(page)], check=True, cwd=ROOT)
    assert 'src="data:image/jpeg;base64,' in page.read_text()


def test_names_that_are_not_utf8_stand_in_report_and_page(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (40, 40)).save(folder / name)
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    code, output = _call(checkpoint, folder, "--json", report, "--html", page, *FAST)
    assert code == 0, output
    assert read_report(report).captions[0].image == name
    assert "caf\\udce9.png" in page.read_text(encoding="utf-8")


def test_captions_are_as_long_as_the_model_can_write_them(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    code, output = _call(checkpoint, photos, "--json", file, "--num-beams", "1", "--max-tokens", "200")
    assert code == 0, output
    assert read_report(file).decoding["max_tokens"] == 38  # 40 positions, a prefix of 3, the last is not read


def _call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.output


def _refused(*arguments: object) -> str:
    """The one line of an error."""
    code, output = _call(*arguments, *FAST)
    assert code == 1, output
    assert output.count("\n") == 1
    return output.strip()
