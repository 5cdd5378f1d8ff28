"""Engines on a real API server: what it says to our objects, our RBAC rules and our changes. No node is needed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engine_memory import MIB
from core.engines import EnginePhase, Role
from core.errors import Conflict, Fault
from core.ids import EndpointName
from infra.testcluster.cluster import Cluster
from serving.engines.kubernetes import kinds
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.engines import KubernetesEngines
from serving.engines.kubernetes.kinds import Kind
from serving.engines.kubernetes.pod_settings import pod_settings
from tests.equipment.kube_env import GIB, a_spec, eventually, policy
from tests.equipment.kube_real import engines_on, least_permissions, namespace

pytestmark = pytest.mark.kubernetes

STILL_S = 6.0
"""Longer than the autoscalers' pause between two looks: what has not changed for so long, no controller changes by itself."""
SPEC = a_spec(1)


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Api]:
    with namespace(cluster.kubeconfig, restricted=True) as api:
        yield api


@pytest.fixture
def engines(cluster: Cluster, space: Api, tmp_path: Path) -> Iterator[KubernetesEngines]:
    """The adapter with exactly the RBAC rules that it lists."""
    with least_permissions(cluster.kubeconfig, space) as client:
        made = engines_on(client, pod_settings(space.namespace, policy(max_engines=2), drain_s=10.0), tmp_path)
        yield made
        made.close()


def kinds_of(engines: KubernetesEngines) -> tuple[Kind, ...]:
    """The kinds of an engine's objects; which autoscaler depends on what the shared cluster knows by now."""
    assert engines.scaler is not None
    return (kinds.DEPLOYMENTS, kinds.SERVICES, kinds.POLICIES, engines.scaler)


def versions_of(space: Api, engines: KubernetesEngines) -> dict[str, str]:
    """Each object's resourceVersion; of the autoscaler, whose status its controller never stops writing, when we last changed it."""
    found = {}
    for kind in kinds_of(engines):
        for entry in space.list(kind, "app.kubernetes.io/managed-by=seatrial").items:
            metadata = entry["metadata"]
            ours = [field["time"] for field in metadata["managedFields"] if field["manager"] == "seatrial"]
            found[f"{kind.plural}/{metadata['name']}"] = str(ours) if kind is engines.scaler else metadata["resourceVersion"]
    return found


def settled(space: Api, engines: KubernetesEngines) -> dict[str, str]:
    """Wait until the controllers have written what they write of themselves, and return the versions of all objects."""
    seen, since = versions_of(space, engines), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = versions_of(space, engines)
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > STILL_S

    eventually(still, limit_s=60.0)
    return seen


def reasons(space: Api) -> set[str]:
    return {entry["reason"] for entry in space.list(kinds.EVENTS).items if entry["source"].get("component") == "seatrial"}


def kubectl(cluster: Cluster, space: Api, *arguments: str) -> str:
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig), "-n", space.namespace, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_same_version_twice_changes_nothing_also_from_another_process(space: Api, engines: KubernetesEngines, tmp_path: Path) -> None:
    engines.apply(SPEC)
    before = settled(space, engines)
    assert len(before) == len(kinds_of(engines))
    engines.apply(SPEC)
    other = engines_on(engines._api._client, engines._settings, tmp_path)
    other.apply(SPEC)
    with pytest.raises(Conflict):
        other.apply(a_spec(1, max_model_len=99))
    other.close()
    assert versions_of(space, engines) == before


def test_pods_are_admitted_where_the_restricted_standard_is_enforced(space: Api, engines: KubernetesEngines) -> None:
    engines.apply(SPEC)
    eventually(lambda: bool(space.list(kinds.PODS).items))


def test_an_image_set_by_hand_is_put_right_and_an_added_variable_is_reported(
    cluster: Cluster, space: Api, engines: KubernetesEngines
) -> None:
    engines.apply(SPEC)
    kubectl(cluster, space, "set", "image", "deployment", "--all", "engine=busybox:latest")
    eventually(lambda: "PutRight" in reasons(space), lambda: engines.apply(SPEC))
    kubectl(cluster, space, "set", "env", "deployment", "--all", "EXTRA=1")
    eventually(lambda: "ChangedByHand" in reasons(space), lambda: engines.apply(SPEC))
    (live,) = space.list(kinds.DEPLOYMENTS).items
    container = live["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == policy().image
    assert "EXTRA" in {entry["name"] for entry in container["env"]}


def test_replicas_that_somebody_scaled_stay(cluster: Cluster, space: Api, engines: KubernetesEngines) -> None:
    engines.apply(SPEC)
    kubectl(cluster, space, "scale", "deployment", "--all", "--replicas=2")
    engines.apply(SPEC)
    assert space.list(kinds.DEPLOYMENTS).items[0]["spec"]["replicas"] == 2


def test_labels_and_events_show_where_people_look(cluster: Cluster, space: Api, engines: KubernetesEngines) -> None:
    engines.apply(SPEC)
    engines.mark(SPEC.version, EndpointName("demo"), Role.CANDIDATE)
    engines.mark(SPEC.version, EndpointName("demo"), Role.STABLE)
    engines.record(SPEC.version, "Promoted", "stable version of demo")
    assert "stable" in kubectl(cluster, space, "get", "deployments", "-L", "endpoint.seatrial.dev/demo")
    assert "stable version of demo" in kubectl(cluster, space, "describe", "deployments")
    before = settled(space, engines)
    engines.apply(SPEC)
    assert versions_of(space, engines) == before, "a label of another manager is no drift"


def test_a_stop_leaves_no_object_behind(space: Api, engines: KubernetesEngines) -> None:
    engines.apply(SPEC)
    engines.mark(SPEC.version, EndpointName("demo"), Role.STABLE)
    eventually(lambda: bool(space.list(kinds.PODS).items))
    engines.stop(SPEC.version, drain_s=1.0)
    eventually(lambda: engines.state(SPEC.version).phase is EnginePhase.ABSENT, limit_s=30.0)
    sets = Kind("apis/apps/v1", "replicasets")
    eventually(lambda: not any(space.list(kind).items for kind in (*kinds_of(engines), kinds.PODS, sets)), limit_s=30.0)


def test_a_quota_is_told_before_anything_is_made(space: Api, engines: KubernetesEngines) -> None:
    hard = {"requests.memory": "4Gi"}
    space.create(kinds.QUOTAS, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}})
    eventually(lambda: bool(space.list(kinds.QUOTAS).items[0].get("status", {}).get("hard")))
    fit = engines.fit(SPEC)
    assert (fit.fits, fit.ever) == (False, False)
    assert "the quota team leaves 4.0 GiB of requests.memory" in fit.reason
    assert engines.fit(a_spec(2, memory_bytes=GIB, weights_bytes=MIB)).reason != fit.reason
    assert space.list(kinds.DEPLOYMENTS).items == ()


def test_the_adapters_rights_do_not_reach_secrets_or_other_namespaces(engines: KubernetesEngines) -> None:
    engines.apply(SPEC)
    with pytest.raises(Fault, match="forbidden"):
        engines._api.list(Kind("api/v1", "secrets"))
    elsewhere = Api(engines._api._client, "kube-system", engines._clock)
    with pytest.raises(Fault, match="forbidden"):
        elsewhere.list(kinds.DEPLOYMENTS)


def test_a_pod_without_a_node_tells_the_schedulers_words(engines: KubernetesEngines) -> None:
    engines.apply(a_spec(3, memory_bytes=2**50))
    eventually(lambda: "it fits on no node: " in engines.state(a_spec(3).version).detail, limit_s=30.0)
    assert engines.state(a_spec(3).version).phase is EnginePhase.STARTING
