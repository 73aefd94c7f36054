"""Every command of README.md does what it says there; one that nobody tries here is a fault."""

import json
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config

from service.api.app import create_app
from service.cli import main
from service.finetuning.settings import FEWEST_PHOTOS
from service.jobs.documents import ModelMade, TrainingRecord
from service.jobs.parts import JobParts
from service.jobs.queue import FINETUNE_QUEUE
from service.model_registry import ModelRegistry
from service.registry import ServedModel, load_served_model
from service.settings import Settings
from tests.browser.served import served
from tests.clients.readme import README, commands
from tests.models.clipcap import ClipCap
from tests.service import pictures
from tests.service.clients import CAT
from tests.service.jobs.broker import running_broker
from tests.service.jobs.conftest import photo
from tests.service.jobs.fakes import InlineWorker
from tests.service.jobs.trained import train
from tests.tiny import byte_level_bpe, tiny_checkpoint, tiny_clip
from tests.training.conftest import write_scenes

REPOSITORY = README.parent
ADDRESS = "http://127.0.0.1:8000"
WAIT_S = 60

Try = Callable[["Reader"], None]
TRIED: dict[str, Try] = {}


class Reader:
    """Somebody who types the README's commands in a folder with a few photos."""

    def __init__(self, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.monkeypatch = monkeypatch
        self.command = ""
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SEMICAP_DATA_DIR", str(folder / "data"))
        (folder / "cat.jpg").write_bytes(CAT)
        (folder / "PHOTOS").mkdir()
        for number, picture in enumerate(pictures.photos(3, edge=48)):
            (folder / "PHOTOS" / f"{number}.png").write_bytes(picture)
        (folder / "training").symlink_to(REPOSITORY / "training")

    def type(self, *more: str) -> int:
        """The exit status of the command, which runs in this process."""
        words = shlex.split(self.command)
        self.monkeypatch.setattr(sys, "argv", ["semicap", *words[1:], *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)


def tries(*readme_commands: str) -> Callable[[Try], Try]:
    """Says which commands of the README a function tries."""

    def note(function: Try) -> Try:
        TRIED.update(dict.fromkeys(readme_commands, function))
        return function

    return note


@tries(
    "make serve", "make test", "SEMICAP_CHECKPOINT=clipcap-coco make serve", "SEMICAP_HOST=0.0.0.0 make serve"
)
@tries("SEMICAP_CHECKPOINT=runs/mine/9-average/model make serve")
def _make(reader: Reader) -> None:
    target = reader.command.rpartition(" ")[2]
    done = subprocess.run(
        ["make", "-n", "-C", str(REPOSITORY), target],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    assert {"serve": "semicap serve", "test": "pytest"}[target] in done.stdout


@tries("curl -F image=@cat.jpg -F num_captions=2 http://127.0.0.1:8000/v1/captions")
def _curl(reader: Reader) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    with served(create_app(Settings(precision="fp32"), _model(reader))) as address:
        done = subprocess.run(
            shlex.split(reader.command.replace(ADDRESS, address)),
            capture_output=True,
            check=True,
            timeout=WAIT_S,
        )
    (result,) = json.loads(done.stdout)["results"]
    assert len(result["captions"]) == 2


@tries(".venv/bin/semicap caption PHOTOS/ --sidecar txt")
def _sidecars(reader: Reader) -> None:
    reader.monkeypatch.setenv("SEMICAP_CHECKPOINT", str(reader.checkpoint))
    assert reader.type() == 0
    assert len(list(reader.folder.glob("PHOTOS/*.txt"))) == 3
    assert reader.type() == 0  # run it again and it goes on where it was


@tries(".venv/bin/semicap caption PHOTOS/ --output captions.jsonl")
def _one_file(reader: Reader) -> None:
    reader.monkeypatch.setenv("SEMICAP_CHECKPOINT", str(reader.checkpoint))
    assert reader.type() == 0
    assert len((reader.folder / "captions.jsonl").read_text().splitlines()) == 3


@tries(".venv/bin/semicap jobs submit captions PHOTOS/ --watch")
def _captions_job(reader: Reader) -> None:
    with _service_with_jobs(reader, _caption) as parts:
        assert reader.type() == 0
        (job,) = parts.jobs.archive.ids()
        assert parts.jobs.status(job).counts.done == 3


@tries(".venv/bin/semicap jobs submit finetune PHOTOS/ --watch")
def _finetune_job(reader: Reader) -> None:
    for number in range(FEWEST_PHOTOS):
        (reader.folder / "PHOTOS" / f"more-{number}.jpg").write_bytes(photo(number))
    with _service_with_jobs(reader, _teach) as parts:
        ModelRegistry(parts.store, reader.folder / "cache").publish(reader.checkpoint, origin="imported")
        assert reader.type() == 0
        (job,) = parts.jobs.archive.ids()
        assert parts.jobs.status(job).state == "succeeded"


@tries(".venv/bin/semicap models import-clipcap coco_weights.pt --name clipcap-coco")
def _clipcap(reader: Reader) -> None:
    tokenizer = byte_level_bpe()
    tiny_clip(reader.folder / "clip")
    (reader.folder / "gpt2").mkdir()
    tokenizer.save(reader.folder / "gpt2")
    gpt2 = GPT2Config(vocab_size=tokenizer.vocab_size, n_embd=64, n_layer=1, n_head=1, n_positions=64)
    torch.save(ClipCap("mlp", gpt2, embed_dim=16).published_state(), reader.folder / "coco_weights.pt")
    assert reader.type("--clip", "clip", "--gpt2-files", "gpt2") == 0
    assert ModelRegistry.reading(Settings()).find("clipcap-coco").origin == "imported"


@tries(".venv/bin/semicap keys create NAME")
def _key(reader: Reader) -> None:
    assert reader.type() == 0
    assert "NAME" in Settings().keys_file.read_text()


@tries(".venv/bin/semicap train recipe training/recipes/default --data PHOTOS --out runs/mine")
def _recipe(reader: Reader) -> None:
    for folder in ("flickr8k/train", "flickr8k/val", "coco-unlabeled"):
        write_scenes(reader.folder / "PHOTOS" / folder)
    (reader.folder / "PHOTOS" / "text").mkdir()
    line = json.dumps({"text": "the dog runs on the grass"})
    (reader.folder / "PHOTOS" / "text" / "captions.jsonl").write_text(f"{line}\n")
    (reader.folder / "PHOTOS" / "towers").mkdir()
    for name in ("mobilenetv2_100.imagenet", "squeezenet1_1.imagenet"):
        save_file({"unused": torch.zeros(1)}, reader.folder / "PHOTOS" / "towers" / f"{name}.safetensors")
    assert reader.type("--dry-run") == 0


@tries(".venv/bin/semicap train unsupervised my-stage2.toml --data PHOTOS --out runs/mine")
def _one_step(reader: Reader) -> None:
    write_scenes(reader.folder / "PHOTOS" / "unlabelled")
    tiny_checkpoint(reader.folder / "runs" / "mine")
    settings = 'stage = "unsupervised"\ninit = "mine/checkpoint"\n[data]\nunlabelled = ["unlabelled"]\n'
    (reader.folder / "my-stage2.toml").write_text(settings)
    assert reader.type("--dry-run") == 0


@tries(".venv/bin/semicap evaluate runs/mine/9-average/model PHOTOS/val --html report.html")
def _evaluate(reader: Reader) -> None:
    write_scenes(reader.folder / "PHOTOS" / "val")
    shutil.copytree(reader.checkpoint, reader.folder / "runs" / "mine" / "9-average" / "model")
    assert reader.type("--max-tokens", "6", "--num-beams", "1") == 0
    assert (reader.folder / "report.html").stat().st_size > 1000


@tries(".venv/bin/semicap train settings unsupervised")
def _settings(reader: Reader) -> None:
    assert reader.type() == 0


def test_readme_has_no_command_that_is_not_tried_and_none_is_tried_in_vain() -> None:
    assert set(commands()) == set(TRIED)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", commands())
def test_command_of_the_readme_works(
    command: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(tmp_path, tiny_checkpoint, monkeypatch)
    reader.command = command
    TRIED[command](reader)


def _model(reader: Reader) -> ServedModel:
    return load_served_model(reader.checkpoint, device="cpu")


@contextmanager
def _service_with_jobs(reader: Reader, work: Callable[[JobParts], None]) -> Iterator[JobParts]:
    """A running service, and somebody who looks for work every moment."""
    stop = threading.Event()
    with running_broker(reader.folder / "broker") as broker:
        settings = Settings(data_dir=reader.folder / "data", redis_url=broker.url, precision="fp32")
        parts = JobParts.build(settings)

        def look_for_work() -> None:
            while not stop.wait(0.1):
                work(parts)

        worker = threading.Thread(target=look_for_work)
        worker.start()
        try:
            with served(create_app(settings, _model(reader))) as address:
                reader.monkeypatch.setenv("SEMICAP_URL", address)
                yield parts
        finally:
            stop.set()
            worker.join()
            parts.close()


def _caption(parts: JobParts) -> None:
    InlineWorker(parts).do_all()


def _teach(parts: JobParts) -> None:
    """What a worker leaves of a fine-tuning, without the training."""
    if parts.jobs.board.client.llen(FINETUNE_QUEUE):
        made = ModelMade(id="tiny:abc", gate={"passed": True, "checks": [], "reason": "passed"})
        (job,) = parts.jobs.archive.ids()
        train(parts, job, TrainingRecord(attempt=1, step=20, steps=20, model=made))
    InlineWorker(parts).do_all()
