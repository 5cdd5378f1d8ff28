"""Engines that really run: pods of a real kubelet, with the fake engine of this checkout in a bare image."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.engines import EnginePhase
from core.errors import Transient
from core.ids import Digest
from infra.testcluster.cluster import Cluster
from serving.engines.kubernetes import kinds
from tests.equipment.cluster_env import ClusterEnv, ask, bare_image
from tests.equipment.kube_env import a_spec, eventually
from tests.equipment.kube_real import admin_client, engines_on, fake_settings, namespace

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

LIMIT_S = 120.0


@pytest.fixture(scope="session")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    return bare_image(cluster, tmp_path_factory.mktemp("image"))


@pytest.fixture
def cluster_env(cluster: Cluster, image: str, tmp_path: Path) -> Iterator[ClusterEnv]:
    with namespace(cluster.kubeconfig) as space:
        where = fake_settings(space.namespace, image, folders=(tmp_path,))
        engines = engines_on(admin_client(cluster.kubeconfig), where, tmp_path)
        yield ClusterEnv(space, engines, tmp_path)
        for state in engines.list():
            engines.stop(state.version, drain_s=0)
        eventually(lambda: not space.list(kinds.PODS).items, limit_s=60.0)
        engines.close()


def test_an_engine_starts_stops_and_leaves_its_log(cluster_env: ClusterEnv) -> None:
    spec = cluster_env.spec(1)
    cluster_env.engines.apply(spec)
    assert cluster_env.engines.state(spec.version).phase is EnginePhase.STARTING
    ready = cluster_env.wait_for(spec.version, EnginePhase.READY)
    assert ask(ready.address)[0] == 200
    assert any("fake engine" in line for line in cluster_env.engines.logs(spec.version, 20))
    cluster_env.engines.stop(spec.version, drain_s=5)
    cluster_env.wait_for(spec.version, EnginePhase.ABSENT)
    assert any("fake engine" in line for line in cluster_env.engines.logs(spec.version, 20))
    listed = [cluster_env.space.list(kind).items for kind in (kinds.DEPLOYMENTS, kinds.SERVICES, kinds.POLICIES, kinds.PODS)]
    assert [entry for found in listed for entry in found if entry["metadata"]["name"] != "kubernetes"] == []


def test_refused_weights_reach_the_submitter_from_the_pods_status(cluster_env: ClusterEnv) -> None:
    spec = replace(cluster_env.spec(2), tensors_manifest=Digest("0" * 64))
    cluster_env.engines.apply(spec)
    state = cluster_env.wait_for(spec.version, EnginePhase.FAILED)
    assert state.detail == "weights refused: tensors.json: its SHA-256 differs from the one asked for; tensorize the weights again"
    cluster_env.engines.apply(spec)
    assert cluster_env.engines.state(spec.version).phase is EnginePhase.STARTING


def test_an_engine_that_dies_at_its_start_fails_with_the_end_of_its_log(cluster_env: ClusterEnv) -> None:
    spec = cluster_env.spec(3, dies_at_start="RuntimeError: the moon is full")
    cluster_env.engines.apply(spec)
    state = cluster_env.wait_for(spec.version, EnginePhase.FAILED)
    assert state.detail == "RuntimeError: the moon is full"


def test_a_missing_image_is_reported(cluster: Cluster, tmp_path: Path) -> None:
    with namespace(cluster.kubeconfig) as space:
        where = fake_settings(space.namespace, "nowhere.invalid/engine@sha256:" + "0" * 64, pull_limit_s=5.0)
        engines = engines_on(admin_client(cluster.kubeconfig), where, tmp_path)
        engines.apply(ClusterEnv(space, engines, tmp_path).spec(4))
        version = a_spec(4).version
        eventually(lambda: engines.state(version).phase is EnginePhase.FAILED, limit_s=LIMIT_S)
        assert "its image cannot be pulled" in engines.state(version).detail
        engines.stop(version, drain_s=0)
        engines.close()


def test_an_engine_that_is_killed_comes_back(cluster_env: ClusterEnv) -> None:
    spec = cluster_env.spec(5)
    cluster_env.engines.apply(spec)
    cluster_env.wait_for(spec.version, EnginePhase.READY)
    (pod,) = cluster_env.space.list(kinds.PODS).items
    cluster_env.space.delete(kinds.PODS, pod["metadata"]["name"], grace_s=1)
    eventually(lambda: cluster_env.engines.state(spec.version).phase is not EnginePhase.READY, limit_s=LIMIT_S)
    ready = cluster_env.wait_for(spec.version, EnginePhase.READY)
    eventually(lambda: _answers(ready.address), limit_s=30.0)


def test_a_stop_lets_an_answer_in_flight_finish(cluster_env: ClusterEnv) -> None:
    spec = cluster_env.spec(6, token_s=0.2)
    cluster_env.engines.apply(spec)
    address = cluster_env.wait_for(spec.version, EnginePhase.READY).address
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(ask(address, stream=True, max_tokens=60)[1]))
    asking.start()
    eventually(lambda: _running(address) == 1, limit_s=30.0)
    cluster_env.engines.stop(spec.version, drain_s=20)
    asking.join(60)
    assert "[DONE]" in said[0]
    cluster_env.wait_for(spec.version, EnginePhase.ABSENT)


def _answers(address: str | None) -> bool:
    try:
        return ask(address)[0] == 200
    except OSError:
        return False


def _running(address: str | None) -> float:
    connection = http.client.HTTPConnection(urlsplit(address or "").netloc, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_an_engine_serves_and_is_told_while_the_api_server_is_away_and_is_followed_again(cluster_env: ClusterEnv, cluster: Cluster) -> None:
    spec = cluster_env.spec(7)
    cluster_env.engines.apply(spec)
    address = cluster_env.wait_for(spec.version, EnginePhase.READY).address
    cluster.stop("apiserver", kill=True)
    try:
        with pytest.raises(Transient):
            cluster_env.engines.apply(cluster_env.spec(8))
        assert ask(address)[0] == 200
        assert cluster_env.engines.state(spec.version).phase is EnginePhase.READY
    finally:
        cluster.start("apiserver")
    (pod,) = cluster_env.space.list(kinds.PODS).items
    cluster_env.space.delete(kinds.PODS, pod["metadata"]["name"], grace_s=1)
    eventually(lambda: cluster_env.engines.state(spec.version).phase is not EnginePhase.READY, limit_s=LIMIT_S)
    cluster_env.wait_for(spec.version, EnginePhase.READY)
