"""The lock, the wheel and the repository's files as somebody else gets them."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; .+?)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})*)"
)
# In two parts each, so that this file holds none of them.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "deb.de" + "bian.org",
    "download.py" + "torch.org",
]


class Pin(NamedTuple):
    name: str
    version: str
    num_hashes: int


def locked_lines() -> list[str]:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines()]


def pins() -> list[Pin]:
    matches = [PINNED.fullmatch(line) for line in locked_lines()]
    return [Pin(m["name"], m["version"], m["hashes"].count("--hash")) for m in matches if m]


def declared_dependencies() -> list[str]:
    return [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]


@pytest.mark.parametrize("dependency", declared_dependencies())
def test_lock_pins_each_dependency_within_its_range(dependency: str) -> None:
    requirement = Requirement(dependency)
    versions = [pin.version for pin in pins() if pin.name == canonicalize_name(requirement.name)]
    assert versions, f"{requirement.name} is not in requirements.lock: run make lock"
    assert all(requirement.specifier.contains(Version(version)) for version in versions), versions


def test_lock_holds_nothing_but_pins_with_hashes() -> None:
    """So it names no index, no address and no local path, and works with any mirror."""
    strangers = [line[:100] for line in locked_lines() if not PINNED.fullmatch(line)]
    assert strangers == []
    assert [pin.name for pin in pins() if pin.num_hashes == 0] == []


def repository_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_file_names_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in repository_files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_carries_every_file_of_the_three_packages(wheel: zipfile.ZipFile) -> None:
    packages = ("models", "training", "service")
    ours = {path.relative_to(ROOT).as_posix() for path in repository_files()}
    expected = {name for name in ours if name.startswith(tuple(f"{package}/" for package in packages))}
    assert expected - set(wheel.namelist()) == set()


@pytest.mark.parametrize(
    "pattern",
    [
        r"models/pretrained/default/.+\.safetensors",
        r"models/pretrained/second-scorer/.+\.safetensors",
        r"training/recipes/.+\.toml",
        r"service/cli\.py",
    ],
)
def test_wheel_runs_without_the_repository(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in wheel.namelist())


def test_wheel_installs_the_semicap_command_and_nothing_of_the_tests(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "semicap = service.cli:main" in wheel.read(entry_points).decode()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "models",
        "training",
        "service",
    }
