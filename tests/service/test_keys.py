"""API keys: kept as hashes, changed by several processes at once, followed by a running service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.key_ring import CHECK_EVERY_S, KeyRing
from service.keys import KeyFileError, KeyStore, Scope
from tests.service.conftest import Semicap


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "data" / "keys.json")


def test_key_opens_and_its_file_holds_only_the_hash(store: KeyStore) -> None:
    secret, key = store.create("a shop", (Scope.CAPTION,))
    assert KeyRing(store).find(secret) == key
    text = store.path.read_text()
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert store.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", ["cut", "longer", "other-secret", "upper", "empty", "not-ascii"])
def test_what_is_not_exactly_the_key_does_not_open(store: KeyStore, change: str) -> None:
    secret, _ = store.create("a", (Scope.CAPTION,))
    other, _ = store.create("b", (Scope.CAPTION,))
    tried = {
        "cut": secret[:-1],
        "longer": secret + "x",
        "other-secret": secret[:21] + other[21:],
        "upper": secret.upper(),
        "empty": "",
        "not-ascii": secret[:-1] + "é",
    }[change]
    assert KeyRing(store).find(tried) is None


def test_revoked_key_is_refused_within_seconds_and_keys_stay_required(store: KeyStore) -> None:
    clock = Clock()
    secret, key = store.create("a", (Scope.CAPTION,))
    ring = KeyRing(store, clock=clock)
    assert ring.find(secret)
    store.revoke(key.id)
    clock.now += CHECK_EVERY_S
    assert ring.find(secret) is None
    assert ring.is_required


def test_first_key_closes_a_service_that_was_open(store: KeyStore) -> None:
    clock = Clock()
    ring = KeyRing(store, clock=clock)
    assert not ring.is_required
    secret, _ = store.create("a", (Scope.CAPTION,))
    clock.now += CHECK_EVERY_S
    assert ring.is_required
    assert ring.find(secret)


def test_lost_file_lets_nobody_in(store: KeyStore) -> None:
    clock = Clock()
    secret, _ = store.create("a", (Scope.CAPTION,))
    ring = KeyRing(store, clock=clock)
    store.path.unlink()
    clock.now += CHECK_EVERY_S
    assert ring.find(secret) is None
    assert ring.is_required


def test_damaged_file_leaves_the_last_good_keys_until_it_is_mended(store: KeyStore) -> None:
    clock = Clock()
    secret, key = store.create("a", (Scope.CAPTION,))
    ring = KeyRing(store, clock=clock)
    whole = store.path.read_text()
    store.path.write_text(whole[:-20])
    clock.now += CHECK_EVERY_S
    assert ring.find(secret) == key
    store.path.write_text(whole.replace('"revoked": null', '"revoked": "2026-01-01T00:00:00+00:00"'))
    clock.now += CHECK_EVERY_S
    assert ring.find(secret) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format_version": 9, "keys": []}', '{"format_version": 1, "keys": [{"id": 1}]}']
)
def test_service_does_not_start_on_a_damaged_file(store: KeyStore, text: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(text)
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        KeyRing(store)


def test_processes_that_make_keys_at_once_lose_none(store: KeyStore) -> None:
    code = (
        "import sys; from pathlib import Path; from service.keys import KeyStore, Scope\n"
        "for n in range(10): KeyStore(Path(sys.argv[1])).create(f'{sys.argv[2]}-{n}', (Scope.JOBS,))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(store.path), str(number)]) for number in range(4)
    ]
    assert [one.wait() for one in running] == [0] * 4
    assert {key.name for key in store.all()} == {f"{process}-{n}" for process in range(4) for n in range(10)}
    assert [path.name for path in store.path.parent.iterdir() if path.name.startswith(".")] == []


def test_write_that_fails_leaves_the_old_file(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("a", (Scope.CAPTION,))
    before = store.path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyFileError, match="No space left"):
        store.create("b", (Scope.CAPTION,))
    assert store.path.read_bytes() == before


def test_command_line_makes_lists_and_revokes(
    semicap: Semicap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMICAP_DATA_DIR", str(tmp_path))
    status, out, _ = semicap(
        "keys", "create", "photo library", "--scope", "caption", "--scope", "jobs", "--rate-limit", "5/minute"
    )
    secret = out.strip()
    assert (status, len(out.splitlines())) == (0, 1)
    key = KeyRing(KeyStore(tmp_path / "keys.json")).find(secret)
    assert key is not None
    assert (key.name, key.scopes, key.rate_limit) == ("photo library", ("caption", "jobs"), "5/minute")
    listed = semicap("keys", "list")[1]
    assert "photo library  caption,jobs" in listed
    assert secret not in listed
    assert semicap("keys", "revoke", key.id)[0] == 0
    assert "revoked 20" in semicap("keys", "list")[1]
    assert json.loads((tmp_path / "keys.json").read_text())["keys"][0]["revoked"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "nothing"), "there is no key 'nothing'"),
        (("create", " "), "1 to 100 printable"),
        (("create", "a\x00b"), "1 to 100 printable"),
        (("create", "a", "--scope", "everything"), "everything"),
        (("create", "a", "--rate-limit", "often"), "100/minute"),
        (("create", "a", "--rate-limit", "0/minute"), "at least 1"),
    ],
)
def test_wrong_use_is_one_line(
    semicap: Semicap, arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMICAP_DATA_DIR", str(tmp_path))
    status, out, err = semicap("keys", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "keys.json").exists()
