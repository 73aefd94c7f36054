"""The image and the compose file against the settings and files that they rely on."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
KUBERNETES = ROOT / "docker/kubernetes"
VARIABLES = {f"SEMICAP_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    "file_name",
    [
        "docker-compose.yml",
        "docker/Dockerfile",
        *(f"docker/kubernetes/{path.name}" for path in KUBERNETES.glob("*.yaml")),
    ],
)
def test_every_variable_is_a_setting(file_name: str) -> None:
    assert set(re.findall(r"\bSEMICAP_[A-Z_]+", (ROOT / file_name).read_text())) - VARIABLES == set()


def test_every_file_mounted_into_a_container_exists() -> None:
    mounts = [mount.split(":")[0] for service in COMPOSE["services"].values() for mount in service["volumes"]]
    ours = [mount for mount in mounts if mount.startswith("./")]
    assert ours
    assert [mount for mount in ours if not (ROOT / mount).exists()] == []


def test_every_file_the_image_copies_exists_and_reaches_the_build() -> None:
    copied = [
        name
        for arguments in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for name in arguments.split()
    ]
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert set(copied) == let_through
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_containers_run_without_rights_they_do_not_need() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert re.search(r"^USER [1-9]\d*$", DOCKERFILE, re.MULTILINE)


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_container_gets_longer_to_stop_than_requests_get_to_finish() -> None:
    for name in ("api", "worker", "worker-gpu"):
        grace_s = float(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings.model_fields["drain_s"].default


@pytest.mark.parametrize("name", ["redis", "minio"])
def test_broker_and_bucket_are_reached_by_containers_alone_and_with_a_password(name: str) -> None:
    service = COMPOSE["services"][name]
    assert "ports" not in service
    assert service["user"].split(":")[0] != "0"
    assert any("PASSWORD" in variable for variable in service["environment"])


def test_minio_has_a_home_that_it_can_write_to() -> None:
    """It makes ~/.minio when it starts, and ends where it cannot."""
    minio = COMPOSE["services"]["minio"]
    assert minio["environment"]["HOME"] in minio["tmpfs"]
