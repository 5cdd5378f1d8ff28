"""The chart against a real API server: its schema, its admission under the restricted standard, and its roles as they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.ports.clock import SystemClock
from core.settings import KubernetesPolicy, read_settings
from infra.kubernetes.doctor import examine
from infra.kubernetes.render import EXAMPLE, write
from infra.testcluster.cluster import Cluster
from serving.engines.kubernetes.api import Api, connect
from tests.equipment.chart_objects import VARIANTS, Object, objects, of_kind

pytestmark = pytest.mark.kubernetes
NAMESPACE = "chart"
OTHERS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of Prometheus's operator, which the test cluster has not."""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[Cluster]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}])
    found = objects(namespace=NAMESPACE)
    cluster_wide = [item for item in found if item["kind"] in {"ClusterRole", "ClusterRoleBinding"}]
    apply(cluster, [*cluster_wide, *(item for item in found if item["kind"] in {"ServiceAccount", "Role", "RoleBinding"})])
    yield cluster
    kubectl(cluster, "delete", "-f", "-", given=listed(cluster_wide))
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


def kubectl(cluster: Cluster, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, check=False)


def apply(cluster: Cluster, items: list[Object], *flags: str) -> str:
    done = kubectl(cluster, "apply", "--validate=strict", *flags, "-f", "-", given=listed(items))
    assert done.returncode == 0, done.stderr
    return done.stderr


def listed(items: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_the_api_server_takes_every_object_without_a_warning(namespace: Cluster, variant: str):
    found = [item for item in objects(*VARIANTS[variant], namespace=NAMESPACE) if item["kind"] not in OTHERS]
    assert apply(namespace, found, "--dry-run=server") == ""


def test_the_rendered_folder_is_installed_by_kubectl_alone(namespace: Cluster, tmp_path: Path):
    plain = tmp_path / "values.yaml"
    plain.write_text("metrics: {serviceMonitor: false, rules: false}", encoding="utf-8")  # kinds that the test cluster has not
    write((EXAMPLE, plain), tmp_path / "out", namespace=NAMESPACE)
    done = kubectl(namespace, "apply", "--dry-run=server", "-k", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "statefulset.apps/seatrial-gateway created (server dry run)" in done.stdout


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_pod_is_admitted_where_restricted_is_enforced(namespace: Cluster, variant: str):
    found = objects(*VARIANTS[variant], namespace=NAMESPACE)
    makers = [item for item in found if "template" in item.get("spec", {})]
    pods = [_pod(item["metadata"]["name"], _with_claims(item["spec"])) for item in makers]
    for item in of_kind(found, "ConfigMap"):
        if "job-template.json" in item["data"]:
            job = json.loads(item["data"]["job-template.json"])["job_configuration"]["job_manifest"]
            spec = {name: value for name, value in job["spec"]["template"]["spec"].items() if name not in {"completions", "parallelism"}}
            pods.append(_pod("run", {**spec, "containers": [{**spec["containers"][0], "args": ["x"]}]}))
    assert len(pods) >= 3
    apply(namespace, pods, "--dry-run=server")


def test_a_pod_that_asks_for_more_is_turned_away_there(namespace: Cluster):
    pod = _pod("greedy", {"containers": [{"name": "x", "image": "x@sha256:" + "0" * 64, "securityContext": {"privileged": True}}]})
    done = kubectl(namespace, "create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr


def test_applying_the_chart_twice_changes_nothing(namespace: Cluster):
    items = [
        item for item in objects(namespace=NAMESPACE) if item["kind"] in {"Role", "ClusterRole", "NetworkPolicy", "PodDisruptionBudget"}
    ]
    apply(namespace, items)
    before = kubectl(namespace, "get", "roles,networkpolicies,pdb", "-n", NAMESPACE, "-o", "json").stdout
    apply(namespace, items)
    after = kubectl(namespace, "get", "roles,networkpolicies,pdb", "-n", NAMESPACE, "-o", "json").stdout
    versions = [[item["metadata"]["resourceVersion"] for item in json.loads(text)["items"]] for text in (before, after)]
    assert versions[0] == versions[1]


def test_the_doctor_finds_the_workers_account_to_have_exactly_what_is_needed(namespace: Cluster):
    found = _doctor(namespace.kubeconfig_of_service_account(NAMESPACE, "seatrial-worker"))
    assert [name for name, finding in found.items() if not finding.ok] == [], found
    assert found["rbac: nodes"].what == "may list nodes and pods, for the capacity check"
    assert "may not look at the namespace" in found["pod security"].what


def test_the_doctor_tells_what_the_control_apis_account_lacks(namespace: Cluster):
    found = _doctor(namespace.kubeconfig_of_service_account(NAMESPACE, "seatrial-control"))
    assert not found["rbac: deployments"].ok
    assert found["rbac: deployments"].what == "may not get, create, patch, delete"
    assert found["rbac: pods/log"].ok


def test_the_gateways_account_may_nothing(namespace: Cluster):
    found = _doctor(namespace.kubeconfig_of_service_account(NAMESPACE, "seatrial-gateway"))
    assert not any(finding.ok for name, finding in found.items() if name.startswith("rbac: ") and name != "rbac: nodes")


def test_an_administrators_doctor_sees_the_pod_security_level(namespace: Cluster):
    found = _doctor(namespace.kubeconfig)
    assert found["pod security"].what == "restricted is enforced"
    lacks = {name for name, finding in found.items() if not finding.ok}
    assert lacks <= {"spool"}, found  # a cluster of our own has no storage class


def _doctor(kubeconfig: Path) -> dict[str, Any]:
    policy = KubernetesPolicy(image="r/e@sha256:" + "0" * 64, cpu=1.0)
    settings = read_settings({"HOME": "/nowhere"}, kubernetes=policy)
    settings = replace(settings, models=replace(settings.models, engine_memory_bytes=2**30))
    api = Api(connect(str(kubeconfig)), NAMESPACE, SystemClock())
    return {finding.name: finding for finding in examine(settings, api)}


def _with_claims(spec: Object) -> Object:
    """Return a template's pod with the volumes that a StatefulSet would claim for it."""
    claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())]
    pod = spec["template"]["spec"]
    return {**pod, "volumes": [*pod["volumes"], *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims)]}


def _pod(name: str, spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"probe-{name}", "namespace": NAMESPACE}, "spec": spec}
