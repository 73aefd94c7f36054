"""`semicap models` and the names that SEMICAP_CHECKPOINT takes."""

import json
import re
from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from transformers import GPT2Config

from models.random_model import PRESETS, made_up_vocabulary
from service.api.app import create_app
from service.jobs.store import ArtifactStore
from service.keys import KeyStore, Scope
from service.model_registry import ModelRegistry, shipped_version
from service.registry import load_served_model
from service.settings import read_settings
from tests.browser.served import served
from tests.models.clipcap import ClipCap
from tests.service import pictures
from tests.service.conftest import Semicap
from tests.tiny import byte_level_bpe, tiny_checkpoint, tiny_clip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """ClipCap's layout at toy size, beside the folders "clip" and "gpt2" that it needs."""
    tokenizer = byte_level_bpe()
    tiny_clip(tmp_path / "clip")
    (tmp_path / "gpt2").mkdir()
    tokenizer.save(tmp_path / "gpt2")
    gpt2 = GPT2Config(vocab_size=tokenizer.vocab_size, n_embd=64, n_layer=1, n_head=1, n_positions=64)
    torch.save(ClipCap("mlp", gpt2, embed_dim=16).published_state(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def import_weights(semicap: Semicap, weights: Path, name: str = "clipcap-coco") -> tuple[int, str, str]:
    here = weights.parent
    files = ("--clip", str(here / "clip"), "--gpt2-files", str(here / "gpt2"))
    return semicap("models", "import-clipcap", str(weights), "--name", name, *files)


def test_imported_model_is_listed_shown_and_captions_by_its_name(
    semicap: Semicap, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.fullmatch(r"\* \S+:\w{12}  shipped .* MB\n", semicap("models", "list")[1])
    status, out, _ = import_weights(semicap, weights)
    assert status == 0
    version = re.findall(r"imported clipcap-coco:([0-9a-f]{12});", out)[0]
    listed = semicap("models", "list")[1]
    assert f"  clipcap-coco:{version}  imported " in listed
    shown = semicap("models", "show", "clipcap-coco")[1]
    assert json.loads(shown.partition("\n\n")[0])["id"] == f"clipcap-coco:{version}"
    assert "weights.pt" in shown

    photo = tmp_path / "cat.png"
    photo.write_bytes(pictures.encoded(pictures.cat(), "PNG"))
    for name in ("clipcap-coco", f"clipcap-coco/{version}", version):
        monkeypatch.setenv("SEMICAP_CHECKPOINT", name)
        status, out, err = semicap("caption", str(photo), "--json", "--strategy", "greedy")
        assert (status, err.count("Traceback")) == (0, 0)
        assert '"captions"' in out


def test_importing_the_same_weights_again_says_where_they_are(semicap: Semicap, weights: Path) -> None:
    import_weights(semicap, weights)
    status, _, err = import_weights(semicap, weights)
    assert status == 2
    assert "is here already; semicap models delete" in err
    assert import_weights(semicap, weights, "other")[0] == 0


def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    semicap: Semicap, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    for file, name, said in [
        (tmp_path / "none.pt", "x", "there is no file"),
        (tmp_path / "text.pt", "x", "neither .safetensors nor"),
        (weights, "../x", "'../x' cannot name a model"),
    ]:
        status, out, err = import_weights(semicap, file.parent / file.name, name)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert said in err
    assert len(semicap("models", "list")[1].splitlines()) == 1
    assert not list((tmp_path / "data").rglob("*.safetensors"))


def test_unknown_name_says_which_there_are(
    semicap: Semicap, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_weights(semicap, weights)
    monkeypatch.setattr("service.log.configure_logging", lambda **_: None)
    monkeypatch.setenv("SEMICAP_CHECKPOINT", "clipcap-cooc")
    status, _, err = semicap("api")
    assert status == 2
    assert "clipcap-cooc is not a checkpoint folder, and there is no model 'clipcap-cooc'" in err
    assert "there are: clipcap-coco:" in err
    assert "there is no model 'nope'" in semicap("models", "show", "nope")[2]


def test_random_model_captions_by_its_name_and_is_the_same_for_the_same_seed(
    semicap: Semicap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(name: str, seed: int) -> str:
        status, out, _ = semicap("models", "create-random", name, "--preset", "small", "--seed", str(seed))
        assert status == 0
        return str(re.findall(rf"made {name}:([0-9a-f]{{12}});", out)[0])

    assert create("one", 1) == create("again", 1) != create("other", 2)
    photo = tmp_path / "cat.png"
    photo.write_bytes(pictures.encoded(pictures.cat(), "PNG"))
    monkeypatch.setenv("SEMICAP_CHECKPOINT", "one")
    status, out, _ = semicap("caption", str(photo), "--json", "--min-tokens", "7", "--max-tokens", "7")
    assert status == 0
    assert '"num_tokens": 7' in out


def test_random_model_of_another_vocabulary_needs_its_files(semicap: Semicap, tmp_path: Path) -> None:
    status, _, err = semicap("models", "create-random", "x", "--gpt2-files", str(tmp_path))
    assert status == 2
    assert "has no vocab.json" in err


def test_reference_preset_has_as_many_words_as_gpt2() -> None:
    tokenizer = made_up_vocabulary(PRESETS["vit-b-32-gpt2"].words)
    assert tokenizer.vocab_size == 50257
    text = "bako dimula"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_of_a_random_model_are_about_one_token_each_for_clip() -> None:
    tokenizer = made_up_vocabulary(50_000)
    some = torch.randint(256, tokenizer.eos_id, (200, 20), generator=torch.Generator().manual_seed(0))
    clip_tokens = sum(len(SimpleTokenizer().encode(tokenizer.decode(row))) for row in some.tolist())
    assert 1.0 <= clip_tokens / some.numel() < 1.1


def test_store_is_changed_directly_or_through_a_service_with_a_key(
    semicap: Semicap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        checkpoint = tiny_checkpoint(tmp_path / str(seed), seed=seed)
        assert semicap("models", "import", str(checkpoint))[0] == 0
    settings = read_settings()
    store = ArtifactStore.open(settings.store_location)
    registry = ModelRegistry(store, settings.model_cache)
    second, first = (one for one in registry.versions() if one.name == "tiny")

    assert semicap("models", "activate", first.version)[1] == f"{first.id} is active\n"
    secret, _ = KeyStore(settings.keys_file).create("operator", (Scope.ADMIN,))
    monkeypatch.setenv("SEMICAP_API_KEY", secret)
    model = load_served_model(registry.folder(first), device="cpu", entry=first)
    with served(create_app(settings, model, registry=registry)) as address:
        at = ("--url", address)
        assert said(semicap("models", "alias", "museum", second.id, *at)[1]) == f"museum means {second.id}"
        assert said(semicap("models", "activate", "museum", *at)[1]) == f"{second.id} is active"
        remote, local = (semicap("models", "list", *one)[1] for one in (at, ()))
        assert {line for line in local.splitlines() if "MB" in line} <= set(remote.splitlines())
        assert f"* {second.id}" in remote
        assert "alias museum" in remote
        assert '"is_active": true' in semicap("models", "show", "museum", *at)[1]
        assert said(semicap("models", "rollback", *at)[1]) == f"{first.id} is active"
        status, _, err = semicap("models", "delete", second.id, *at)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "is what the alias 'museum' means: it cannot be deleted" in err
        assert semicap("models", "alias", "museum", "--remove", *at)[0] == 0
        assert semicap("models", "delete", second.id, *at)[0] == 0
        monkeypatch.delenv("SEMICAP_API_KEY")
        assert "API key" in semicap("models", "rollback", *at)[2]
    assert second.id not in semicap("models", "list")[1]
    assert semicap("models", "rollback")[1] == f"{shipped_version().id} is active\n"
    assert "nothing that was active before" in semicap("models", "rollback")[2]
    assert semicap("models", "delete", first.id)[0] == 0
    assert "name the MODEL" in semicap("models", "alias", "museum")[2]


def said(out: str) -> str:
    """The command's own line: the service, in the same process here, logs to the same place."""
    return out.splitlines()[-1]
