"""`seatrial doctor --kubernetes` against a small API server that allows, forbids, lacks and breaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kubernetes.client import ApiClient, Configuration

from core.ports.clock import VirtualClock
from core.settings import GIB, KubernetesPolicy, Settings, read_settings
from infra.findings import Finding
from infra.kubernetes.doctor import examine
from seatrial.cli import main
from serving.engines.kubernetes.api import Api
from serving.engines.kubernetes.rbac import ROLE
from tests.equipment.s3_server import S3Server

IMAGE = "r/engine@sha256:" + "0" * 64


@dataclass
class Cluster:
    """What the server answers."""

    forbidden: set[tuple[str, str]] = field(default_factory=set)
    sees_nodes: bool = True
    sees_namespace: bool = True
    level: str | None = "restricted"
    namespace: bool = True
    keda: bool = False
    external: bool = False
    cores: str = "16"
    memory: str = "64Gi"
    away: bool = False
    release: dict[str, str] | None = None
    """The data of its settings; None: nothing is installed."""
    sees_release: bool = True
    asks_for_others: bool = True
    users: set[str] = field(default_factory=set)
    claim: dict[str, Any] | None = None
    default_class: bool = True
    sees_storage: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.away:
            return 503, {"message": "etcd is away"}
        if path.endswith("subjectaccessreviews"):
            self.users.add(body["spec"].get("user", ""))
            if "user" in body["spec"] and not self.asks_for_others:
                return 403, {"message": "subjectaccessreviews is forbidden"}
            attributes = body["spec"]["resourceAttributes"]
            self.asked.append(attributes)
            allowed = (attributes["resource"], attributes["verb"]) not in self.forbidden and ("namespace" in attributes or self.sees_nodes)
            return 201, {"status": {"allowed": allowed}}
        return self.read(path)

    def read(self, path: str) -> tuple[int, dict[str, Any]]:
        node = {
            "metadata": {"name": "n", "labels": {}},
            "spec": {},
            "status": {
                "allocatable": {"cpu": self.cores, "memory": self.memory, "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        labels = {"pod-security.kubernetes.io/enforce": self.level} if self.level else {}
        marked = {"storageclass.kubernetes.io/is-default-class": "true"} if self.default_class else {}
        map_ = {"metadata": {"name": "prod-settings", "labels": {"app.kubernetes.io/instance": "prod"}}, "data": self.release}
        maps = {"items": [map_] if self.release is not None else [], "metadata": {}}
        answers: dict[str, tuple[int, dict[str, Any]]] = {
            "/apis/apps/v1": (200, {"resources": [{"name": "deployments"}]}),
            "/apis/keda.sh/v1alpha1": (200, {"resources": [{"name": "scaledobjects"}]}) if self.keda else (404, {}),
            "/apis/external.metrics.k8s.io": (200, {"name": "external.metrics.k8s.io"}) if self.external else (404, {}),
            "/api/v1/nodes": (200, {"items": [node], "metadata": {}}) if self.sees_nodes else (403, {"message": "nodes is forbidden"}),
            "/api/v1/namespaces/seatrial/configmaps": (200, maps) if self.sees_release else (403, {"message": "forbidden"}),
            "/api/v1/namespaces/seatrial/persistentvolumeclaims/spool-prod-gateway-0": (200, self.claim) if self.claim else (404, {}),
            "/apis/storage.k8s.io/v1/storageclasses": (200, {"items": [{"metadata": {"annotations": marked}}], "metadata": {}}),
            "/api/v1/pods": (200, {"items": [], "metadata": {}}),
            "/api/v1/namespaces/seatrial/resourcequotas": (200, {"items": [], "metadata": {}}),
        }
        if path.startswith("/apis/storage.k8s.io") and not self.sees_storage:
            return 403, {"message": "storageclasses is forbidden"}
        if path == "/api/v1/namespaces/seatrial":
            if not self.sees_namespace:
                return 403, {"message": "namespaces is forbidden"}
            return (200, {"metadata": {"name": "seatrial", "labels": labels}}) if self.namespace else (404, {"message": "not found"})
        return answers.get(path, (404, {"message": f"nothing at {path}"}))


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, document = cluster.answer(self.command, self.path.partition("?")[0], json.loads(raw or b"{}"))
            text = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _do  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def settings_with(**more: Any) -> Settings:
    given = read_settings({"HOME": "/nowhere"}, kubernetes=KubernetesPolicy(image=IMAGE, cpu=4.0))
    return replace(given, **more)


def look(cluster: Cluster, settings: Settings | None = None) -> dict[str, Finding]:
    with serving(cluster) as url:
        configuration = Configuration()
        configuration.host = url
        configuration.retries = False
        api = Api(ApiClient(configuration), "seatrial", VirtualClock())
        return {finding.name: finding for finding in examine(settings or settings_with(), api)}


def test_a_cluster_that_lacks_nothing_is_fine():
    found = look(Cluster(keda=True))
    assert all(finding.ok for finding in found.values()), found
    assert "KEDA" in found["autoscaling"].what


def test_every_verb_of_the_role_is_asked_for_in_the_namespace():
    cluster = Cluster()
    look(cluster)
    asked = {(one["group"], one["resource"], one["subresource"], one["verb"]) for one in cluster.asked if "namespace" in one}
    assert asked == {(rule.kind.group, rule.kind.plural, rule.sub, verb) for rule in ROLE for verb in rule.verbs}


def test_a_missing_verb_is_named_with_where_it_is_granted():
    found = look(Cluster(forbidden={("deployments", "patch"), ("events", "create")}))
    assert not found["rbac: deployments"].ok
    assert found["rbac: deployments"].what == "may not patch"
    assert "rbac.py" in found["rbac: deployments"].next
    assert not found["rbac: events"].ok
    assert found["rbac: services"].ok


def test_without_a_look_at_nodes_it_says_what_is_lost_and_is_fine():
    found = look(Cluster(sees_nodes=False))
    assert found["rbac: nodes"].ok
    assert "only quotas" in found["rbac: nodes"].what
    assert found["capacity"].ok


@pytest.mark.parametrize("level", [None, "baseline", "privileged"])
def test_a_namespace_that_enforces_less_is_told_with_the_command(level: str | None):
    found = look(Cluster(level=level))["pod security"]
    assert not found.ok
    assert "kubectl label namespace seatrial pod-security.kubernetes.io/enforce=restricted" in found.next


def test_a_namespace_that_is_not_there_is_told_with_the_command():
    found = look(Cluster(namespace=False))["pod security"]
    assert not found.ok
    assert "kubectl create namespace seatrial" in found.next


def test_an_account_that_may_not_see_the_namespace_is_no_fault():
    assert look(Cluster(sees_namespace=False))["pod security"].ok


def test_an_engine_that_fits_no_node_is_told_with_both_numbers():
    found = look(Cluster(cores="2"))["capacity"]
    assert not found.ok
    assert "4 cores" in found.what
    assert "larger node" in found.next


def test_an_engine_larger_than_the_nodes_memory_does_not_fit():
    models = replace(settings_with().models, engine_memory_bytes=128 * GIB)
    found = look(Cluster(), settings_with(models=models))["capacity"]
    assert not found.ok
    assert "128.0 GiB" in found.what


def test_the_memory_of_an_engine_contains_that_of_vllm_itself():
    models = replace(settings_with().models, engine_memory_bytes=GIB)
    assert "one engine: 4 cores, 3.4 GiB" in look(Cluster(), settings_with(models=models))["capacity"].what


def test_sleeping_engines_need_keda():
    policy = KubernetesPolicy(image=IMAGE, min_engines=0, prometheus_url="http://prometheus")
    assert not look(Cluster(external=True), settings_with(kubernetes=policy))["autoscaling"].ok
    assert look(Cluster(keda=True), settings_with(kubernetes=policy))["autoscaling"].ok


def test_sleeping_engines_need_prometheus_whatever_else_is_there():
    found = look(Cluster(keda=True), settings_with(kubernetes=KubernetesPolicy(image=IMAGE, min_engines=0)))["autoscaling"]
    assert not found.ok
    assert "nothing could wake" in found.what
    assert "prometheus_url" in found.next


def test_without_external_metrics_and_keda_nothing_scales_and_it_says_so():
    moving = settings_with(kubernetes=KubernetesPolicy(image=IMAGE, max_engines=3, prometheus_url="http://prometheus"))
    found = look(Cluster(), moving)["autoscaling"]
    assert not found.ok
    assert "never scale" in found.what
    assert "prometheus-adapter" in found.next
    assert look(Cluster(external=True), moving)["autoscaling"].ok
    assert look(Cluster(), settings_with())["autoscaling"].ok, "nobody asked for any"


def test_a_releases_own_settings_are_looked_at_and_not_this_machines():
    cluster = Cluster(release={"SEATRIAL_KUBERNETES_IMAGE": "r/theirs:v1", "SEATRIAL_KUBERNETES_MAX_ENGINES": "3"})
    found = look(cluster)
    assert "release prod" in found["settings"].what
    assert found["engine image"].what == "r/theirs:v1"
    assert "never scale" in found["autoscaling"].what


def test_a_releases_settings_that_cannot_be_read_are_told():
    found = look(Cluster(release={"SEATRIAL_KUBERNETES_MAX_ENGINES": "many"}))["settings"]
    assert not found.ok
    assert "SEATRIAL_KUBERNETES_MAX_ENGINES" in found.what


def test_the_rights_are_the_workers_and_not_those_of_whoever_looks():
    cluster = Cluster(release={}, forbidden={("deployments", "patch")})
    found = look(cluster)
    assert cluster.users == {"system:serviceaccount:seatrial:prod-worker"}
    assert found["rbac"].what == "those of service account prod-worker"
    assert not found["rbac: deployments"].ok


def test_who_may_not_ask_for_the_worker_is_told_whose_rights_were_looked_at():
    cluster = Cluster(release={}, asks_for_others=False)
    found = look(cluster)
    assert "this kubeconfig's own" in found["rbac"].what
    assert found["rbac: deployments"].ok
    assert "this machine's" in look(Cluster(sees_release=False))["settings"].what


@pytest.mark.parametrize(
    ("claim", "default", "ok", "words"),
    [
        ({"status": {"phase": "Bound"}}, False, True, "is bound"),
        ({"spec": {}, "status": {"phase": "Pending"}}, False, False, "there is no default one"),
        ({"spec": {"storageClassName": "fast"}, "status": {"phase": "Pending"}}, False, False, "spool-prod-gateway-0 is Pending"),
        (None, False, True, "ephemeral"),
    ],
)
def test_a_spool_without_a_volume_is_told(claim: dict[str, Any] | None, default: bool, ok: bool, words: str):
    found = look(Cluster(release={}, claim=claim, default_class=default))["spool"]
    assert (found.ok, words in found.what) == (ok, True), found


def test_before_an_installation_a_missing_default_class_is_told():
    found = look(Cluster(default_class=False))["spool"]
    assert not found.ok
    assert "gateway.spool.storageClass" in found.next


def test_who_may_not_look_at_storage_is_no_fault():
    found = look(Cluster(sees_storage=False))["spool"]
    assert found.ok
    assert "may not look" in found.what


def test_an_image_by_tag_is_told():
    found = look(Cluster(), settings_with(kubernetes=KubernetesPolicy(image="r/engine:v1")))["engine image"]
    assert not found.ok
    assert "digest" in found.next
    allowed = settings_with(kubernetes=KubernetesPolicy(image="r/engine:v1", allow_tags=1))
    assert look(Cluster(), allowed)["engine image"].ok


def test_an_api_server_that_is_away_is_the_only_finding():
    found = look(Cluster(away=True))
    assert list(found) == ["cluster"]
    assert not found["cluster"].ok
    assert "etcd is away" in found["cluster"].what


def test_inside_the_cluster_what_is_away_is_told_each(tmp_path: Path):
    here = settings_with(
        engines_url="kubernetes://seatrial",
        home=tmp_path,
        weights_url="file:///weights",
        database_url="postgresql://u:secret@127.0.0.1:1/db",
        prefect_api_url="http://127.0.0.1:1/api",
        mlflow_url="http://127.0.0.1:1",
        redis_url="redis://:secret@127.0.0.1:1",
    )
    found = look(Cluster(), here)
    for name in ("storage", "database", "prefect", "flow runner", "mlflow", "redis"):
        assert not found[name].ok, name
        assert found[name].next, name
    assert "secret" not in repr(found)


def test_storage_is_really_written_read_and_deleted(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    s3.bucket("weights")
    here = settings_with(engines_url="kubernetes://seatrial", weights_url="s3://weights/prefix", s3_endpoint_url=s3.url)
    found = look(Cluster(), here)["storage"]
    assert found.ok, found


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "buckets") as server:
        yield server


def test_the_command_prints_one_document_and_ends_with_one_when_something_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serving(Cluster(level=None)) as url:
        kubeconfig = tmp_path / "config"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        kubeconfig.write_text(json.dumps(document))
        monkeypatch.setenv("SEATRIAL_KUBERNETES_KUBECONFIG", str(kubeconfig))
        result = CliRunner().invoke(main, ["doctor", "--kubernetes", "--json", "--home", str(tmp_path)])
    assert result.exit_code == 1, result.output
    told = json.loads(result.output)
    assert told["ok"] is False
    assert [finding["name"] for finding in told["findings"] if not finding["ok"]] == ["pod security"]


def test_without_a_kubeconfig_the_command_says_so_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEATRIAL_KUBERNETES_KUBECONFIG", str(tmp_path / "none"))
    result = CliRunner().invoke(main, ["doctor", "--kubernetes", "--home", str(tmp_path)])
    assert result.exit_code == 1
    assert "no way to the cluster" in result.output
