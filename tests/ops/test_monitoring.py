"""The Grafana dashboard and the alert rules ask for metrics that the service really has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ALERTS_TEST = Path(__file__).with_name("alerts_test.yml")
PROMTOOL = shutil.which("promtool")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def exposed_names() -> set[str]:
    registry = CollectorRegistry()
    Metrics(registry)
    families = list(registry.collect())
    return {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ("",))}


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads((DOCKER / "grafana/dashboards/semicap.json").read_text())["panels"])


def queries() -> Iterator[tuple[str, str]]:
    for rule in alert_rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']} {target['refId']}", target["expr"]


@pytest.mark.parametrize(("place", "expression"), list(queries()))
def test_query_names_only_metrics_the_service_exposes(place: str, expression: str) -> None:
    names = set(re.findall(r"\bsemicap_\w+", expression))
    assert names - exposed_names() == set(), place


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exposed_names()}
    assert [name for name in sorted(families) if name.startswith("semicap_") and name not in shown] == []


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_each_alert_fires_when_it_should() -> None:
    if PROMTOOL is None:
        pytest.skip("there is no promtool; Debian has it in the package prometheus")
    for verb, file in (("check", DOCKER / "alerts.yml"), ("test", ALERTS_TEST)):
        ended = subprocess.run([PROMTOOL, verb, "rules", file], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_scrapes_api_and_workers_under_the_job_name_that_the_queries_use() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    assert config["rule_files"] == ["alerts.yml"]
    assert scrape["static_configs"] == [{"targets": ["api:8000"]}]
    (workers,) = scrape["dns_sd_configs"]
    services = yaml.safe_load((DOCKER.parent / "docker-compose.yml").read_text())["services"]
    for name in workers["names"]:
        assert services[name]["environment"]["SEMICAP_WORKER_METRICS_PORT"] == str(workers["port"])
    jobs = {job for _, expression in queries() for job in re.findall(r'job="(\w+)"', expression)}
    assert jobs == {scrape["job_name"]}


def test_panels_use_the_provisioned_data_source() -> None:
    provisioned = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    assert {panel["datasource"]["uid"] for panel in panels()} == uids


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels())
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
