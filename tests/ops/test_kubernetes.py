"""The Kubernetes manifests against the settings, the queue and the compose file that they follow."""

import re
from pathlib import Path
from typing import Any

import yaml

from service import release
from service.jobs.queue import QUEUE
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker/kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    one for name in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((FOLDER / name).read_text())
]
RELEASE = re.compile(r"[^:]+:(v?\d+\.\d+\.\d+(-alpine[\d.]+)?|RELEASE\..+)")


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in MANIFESTS if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pod(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = manifest(kind, name)["spec"]["template"]["spec"]
    return found


def pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in MANIFESTS if "template" in one.get("spec", {})]


def test_every_manifest_is_in_the_kustomization() -> None:
    there = {path.name for path in FOLDER.glob("*.yaml")}
    assert there - {"kustomization.yaml"} == set(KUSTOMIZATION["resources"])


def test_every_image_has_the_tag_of_one_release() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    images |= {container["image"] for pod in pods() for container in pod["containers"]}
    assert [image for image in images - {"semicap"} if not RELEASE.fullmatch(image)] == []
    assert KUSTOMIZATION["images"] == [{"name": "semicap", "newName": "semicap", "newTag": release()}]


def test_pods_run_without_rights_they_do_not_need() -> None:
    assert len(pods()) == 3
    for one in pods():
        assert one["automountServiceAccountToken"] is False
        assert one["securityContext"]["runAsNonRoot"]
        assert one["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in one["containers"]:
            rights = container["securityContext"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]


def test_broker_is_that_of_the_compose_file_and_keeps_everything() -> None:
    config = manifest("ConfigMap", "semicap-broker")["data"]["valkey.conf"]
    assert {"appendonly yes", "maxmemory-policy noeviction", "include /tmp/password.conf"} <= set(
        config.splitlines()
    )
    lines = (ROOT / "docker/valkey.conf").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == config.splitlines()
    (broker,) = pod("StatefulSet", "semicap-broker")["containers"]
    compose = COMPOSE["services"]["redis"]
    assert broker["image"] == compose["image"]
    assert 'echo "requirepass $REDIS_PASSWORD" > /tmp/password.conf' in broker["command"][-1]
    assert broker["command"] == [part.replace("$$", "$") for part in compose["command"]]


def test_no_port_is_published_and_only_our_pods_and_keda_reach_the_broker() -> None:
    services = [one for one in MANIFESTS if one["kind"] == "Service"]
    assert [one["spec"].get("type", "ClusterIP") for one in services] == ["ClusterIP"] * 2
    policy = manifest("NetworkPolicy", "semicap-broker")["spec"]
    labels = manifest("StatefulSet", "semicap-broker")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    ours, keda = policy["ingress"][0]["from"]
    assert keda["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "keda"}
    for name in ("semicap-api", "semicap-worker"):
        labels = manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert ours["podSelector"]["matchLabels"].items() <= labels.items()


def test_workers_are_scaled_by_the_queue_that_the_jobs_use() -> None:
    scaled = manifest("ScaledObject", "semicap-worker")["spec"]
    assert manifest("Deployment", scaled["scaleTargetRef"]["name"])
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["listName"] == QUEUE
    service, namespace, _, port = re.split(r"[.:]", trigger["metadata"]["address"])
    assert manifest("Service", service)["spec"]["ports"][0]["port"] == int(port)
    assert namespace == KUSTOMIZATION["namespace"]
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    stays_s = behavior["scaleDown"]["stabilizationWindowSeconds"]
    assert stays_s > Settings.model_fields["job_chunk_s"].default


def test_the_autoscaler_signs_in_with_the_brokers_password() -> None:
    (target,) = manifest("TriggerAuthentication", "semicap-broker")["spec"]["secretTargetRef"]
    for kind, name in (("StatefulSet", "semicap-broker"), ("Deployment", "semicap-api")):
        variable = pod(kind, name)["containers"][0]["env"][0]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": target["name"], "key": target["key"]}


def test_containers_get_longer_to_stop_than_requests_get_to_finish() -> None:
    for name in ("semicap-api", "semicap-worker"):
        grace_s = pod("Deployment", name)["terminationGracePeriodSeconds"]
        assert grace_s > Settings.model_fields["drain_s"].default
