"""The test cluster itself: what the other tests stand on."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import Conflict, Fault, NotFound, Refused
from infra.testcluster.borrowed import Existing
from infra.testcluster.cluster import Cluster, LoadedImage
from infra.testcluster.images import File, Settings, busybox, make_image
from infra.testcluster.state import Home
from tests.equipment.clusters import left, running_cluster, traces

pytestmark = pytest.mark.kubernetes

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> LoadedImage:
    tar = tmp_path_factory.mktemp("image") / "web.tar"
    contents = [*busybox(), File("srv/index.html", b"hello from a pod\n"), File("srv/load.json", b'{"waiting": 3}')]
    make_image(
        tar, "seatrial.local/web:1", contents, Settings(command=("httpd", "-f", "-p", "8080", "-h", "/srv"), environ={"PATH": "/bin"})
    )
    (loaded,) = cluster.load_image(tar)
    return loaded


@pytest.fixture(scope="module")
def web(cluster: Cluster, image: LoadedImage) -> Iterator[str]:
    """A Deployment of two pods and its Service, in a namespace under the restricted policy; gives the Service's URL."""
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": image.pinned,
        "securityContext": RESTRICTED,
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    pod = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, "containers": [container]}
    cluster.kubectl.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "web", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "web"},
                "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "web"},
                "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
            },
        ]
    )
    cluster.kubectl("rollout", "status", "deployment/web", "-n", "web", "--timeout=50s")
    address = got(cluster, "service/web")["spec"]["clusterIP"]
    eventually(lambda: answer(f"http://{address}/") == "hello from a pod\n")
    yield f"http://{address}/"
    cluster.kubectl("delete", "namespace", "web", "--wait=false")


@pytest.fixture
def pod(cluster: Cluster, web: str) -> str:
    """Name a pod of the Deployment."""
    assert web
    return str(got(cluster, "pods")["items"][0]["metadata"]["name"])


def test_a_service_answers_from_the_host(web: str) -> None:
    assert answer(web) == "hello from a pod\n"


@pytest.mark.usefixtures("web")
def test_each_pod_answers_from_the_host(cluster: Cluster) -> None:
    pods = got(cluster, "pods")["items"]
    assert [answer(f"http://{pod['status']['podIP']}:8080/") for pod in pods] == ["hello from a pod\n"] * 2


def test_a_name_resolves_in_a_pod_and_a_pod_calls_a_service(cluster: Cluster, pod: str) -> None:
    assert (
        cluster.kubectl("exec", "-n", "web", pod, "--", "wget", "-q", "-O", "-", "http://web.web.svc.cluster.local/")
        == "hello from a pod\n"
    )


@pytest.mark.usefixtures("web")
def test_a_name_resolves_on_the_host_inside_the_nodes_namespace(cluster: Cluster) -> None:
    command = cluster.inside("busybox", "wget", "-q", "-O", "-", "http://web.web.svc.cluster.local/")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "hello from a pod\n"


def test_no_packet_of_a_pod_leaves_the_machine(cluster: Cluster, pod: str) -> None:
    before = rejected_packets()
    with pytest.raises(Fault, match="terminated with exit code"):
        cluster.kubectl("exec", "-n", "web", pod, "--", "nc", "-w", "3", "203.0.113.1", "80")
    assert rejected_packets() > before


@pytest.mark.usefixtures("web")
def test_a_folder_of_the_machine_is_a_claim_that_restricted_pods_may_read(cluster: Cluster, image: LoadedImage, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "word").write_text("weights\n")
    cluster.share("web", "shared", tmp_path)
    container = {
        "name": "reader",
        "image": image.name,
        "command": ["sh", "-c", "cat /shared/word; touch /shared/mine 2>/dev/null"],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "shared", "mountPath": "/shared", "readOnly": True}],
    }
    volumes = [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}]
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container], "volumes": volumes}
    cluster.kubectl.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": "web"}, "spec": spec}])
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/reader", "-n", "web", "--timeout=50s")
    said = cluster.kubectl("logs", "reader", "-n", "web")
    cluster.kubectl("delete", "pod/reader", "-n", "web", "--grace-period=1", "--timeout=50s")
    assert said == "weights\n"
    assert not (tmp_path / "mine").exists()


def test_an_image_is_pinned_by_a_digest_that_the_same_contents_give_again(cluster: Cluster, tmp_path: Path) -> None:
    pins = []
    for number in (1, 2):
        tar = make_image(tmp_path / f"{number}.tar", "seatrial.local/same:1", [File("data", b"x" * 1000)])
        pins.append(cluster.load_image(tar)[0].pinned)
    assert re.fullmatch(r"seatrial\.local/same@sha256:[0-9a-f]{64}", pins[0])
    assert pins[0] == pins[1]


def test_an_archive_that_is_none_is_refused_in_words(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no archive")
    with pytest.raises(Fault, match="ctr images import"):
        cluster.load_image(tmp_path / "no.tar")


def test_pods_answer_while_the_api_server_is_down_and_it_comes_back(cluster: Cluster, web: str) -> None:
    cluster.stop("apiserver")
    try:
        assert not cluster.status()["apiserver"]
        assert answer(web) == "hello from a pod\n"
        with pytest.raises(Fault, match="refused"):
            cluster.kubectl("get", "nodes")
    finally:
        cluster.start("apiserver")
    assert len(got(cluster, "pods")["items"]) == 2


@pytest.mark.usefixtures("web")
def test_etcd_killed_comes_back_with_all_it_knew(cluster: Cluster) -> None:
    before = got(cluster, "deployment/web")["metadata"]["uid"]
    cluster.restart("etcd", kill=True)
    assert got(cluster, "deployment/web")["metadata"]["uid"] == before
    cluster.kubectl("annotate", "deployment/web", "-n", "web", "still=writable", "--overwrite")


def test_a_restarted_kubelet_leaves_its_pods_running(cluster: Cluster, web: str) -> None:
    before = containers(cluster)
    cluster.restart("kubelet", kill=True)
    assert answer(web) == "hello from a pod\n"
    assert containers(cluster) == before


def test_a_deleted_pod_is_made_again(cluster: Cluster, pod: str) -> None:
    cluster.kubectl("delete", "pod", pod, "-n", "web", "--wait=false")
    cluster.kubectl("wait", "--for=delete", f"pod/{pod}", "-n", "web", "--timeout=50s")
    cluster.kubectl("rollout", "status", "deployment/web", "-n", "web", "--timeout=50s")
    assert pod not in [item["metadata"]["name"] for item in got(cluster, "pods")["items"]]


def test_up_again_changes_nothing_and_starts_what_is_missing(cluster: Cluster) -> None:
    before = {name: daemon.identity for name, daemon in cluster.home.state.daemons.items()}
    cluster.stop("scheduler")
    cluster.up()
    after = {name: daemon.identity for name, daemon in cluster.home.state.daemons.items()}
    assert after.pop("scheduler") != before.pop("scheduler")
    assert after == before
    assert all(cluster.status().values())


@pytest.mark.usefixtures("cluster")
def test_a_second_node_on_the_machine_is_refused() -> None:
    with pytest.raises(Conflict, match="already runs on this machine"):
        Cluster(Path("/tmp/st-second")).up()
    assert not Path("/tmp/st-second").exists()


def test_a_home_with_a_cluster_of_another_kind_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Conflict, match="already has a cluster of kind node"):
        Cluster(cluster.home.folder).up(simulated_nodes=1)


def test_processes_that_hold_pods_are_not_stopped_as_a_fault(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="holds the pods"):
        cluster.stop("containerd")
    with pytest.raises(NotFound, match="no process kube-dns"):
        cluster.stop("kube-dns")


def test_a_user_and_a_service_account_may_only_what_rbac_gives(cluster: Cluster) -> None:
    cluster.kubectl.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": "default"}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "reader", "namespace": "default"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
            },
        ]
    )
    account = type(cluster.kubectl)(cluster.kubectl.program, cluster.kubeconfig_of_service_account("default", "reader"))
    user = type(cluster.kubectl)(cluster.kubectl.program, cluster.kubeconfig_of_user("ada", "developers"))
    account("get", "pods", "-n", "default")
    for refused in (account, user):
        with pytest.raises(Fault, match="forbidden"):
            refused("get", "pods", "-n", "kube-system")


@pytest.mark.release
def test_metrics_server_tells_what_the_node_uses(cluster: Cluster) -> None:
    cluster.add("metrics-server")
    eventually(lambda: json.loads(cluster.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"))["items"], limit_s=60)


@pytest.mark.release
def test_keda_scales_by_what_a_pod_says(cluster: Cluster, web: str) -> None:
    cluster.add("keda")
    assert "scaledobjects" in cluster.kubectl("api-resources", "--api-group=keda.sh")
    external = json.loads(cluster.kubectl("get", "--raw", "/apis/external.metrics.k8s.io/v1beta1"))
    assert [resource["name"] for resource in external["resources"]] == ["externalmetrics"]
    assert answer(f"{web}load.json") == '{"waiting": 3}'
    url = "http://web.web.svc.cluster.local/load.json"
    trigger = {"type": "metrics-api", "metadata": {"url": url, "valueLocation": "waiting", "targetValue": "1", "format": "json"}}
    spec = {"scaleTargetRef": {"name": "web"}, "minReplicaCount": 2, "maxReplicaCount": 3, "pollingInterval": 2, "triggers": [trigger]}
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "web", "namespace": "web"}, "spec": spec}
    cluster.kubectl.apply([scaled])
    eventually(lambda: got(cluster, "deployment/web")["status"]["readyReplicas"] == 3, limit_s=90)
    cluster.kubectl("delete", "scaledobject/web", "-n", "web", "--timeout=30s")
    cluster.kubectl("scale", "deployment/web", "-n", "web", "--replicas=2")
    eventually(lambda: len(got(cluster, "pods")["items"]) == 2, limit_s=90)


@pytest.mark.release
def test_simulated_nodes_run_pods_and_go_without_a_trace(tmp_path: Path) -> None:
    nothing = Path("/tmp/st-none")
    before = settled(nothing)
    with running_cluster(simulated_nodes=4) as cluster:
        assert len(json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]) == 4
        cluster.kubectl("create", "deployment", "many", "--image=none.invalid/none:1", "--replicas=40")
        cluster.kubectl("rollout", "status", "deployment/many", "--timeout=50s")
        cluster.restart("etcd", kill=True)
        assert json.loads(cluster.kubectl("get", "deployment/many", "-o", "json"))["status"]["readyReplicas"] == 40
        borrowed = Existing(Home(tmp_path / "borrowed"), given=str(cluster.kubeconfig))
        borrowed.up()
        assert borrowed.server == cluster.plane.addresses.server
        with pytest.raises(NotFound, match="no real node"):
            cluster.load_image(nothing)
    assert left(before, settled(nothing)) == {}


def settled(folder: Path) -> dict[str, object]:
    """Return the traces once they stay the same: the packet rules of a cluster that runs beside follow its pods after some seconds."""
    seen = [traces(folder)]

    def stays() -> bool:
        seen.append(traces(folder))
        return seen[-25:] == seen[-1:] * 25

    eventually(stays, limit_s=120)
    return seen[-1]


def got(cluster: Cluster, what: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(cluster.kubectl("get", what, "-n", "web", "-o", "json"))
    return result


def rejected_packets() -> int:
    rules = subprocess.run(["iptables", "-v", "-S", "FORWARD"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"seatrial-cluster -c (\d+) \d+ -j REJECT", rules)
    assert found is not None, rules
    return int(found[1])


def containers(cluster: Cluster) -> set[str]:
    return {status["containerID"] for pod in got(cluster, "pods")["items"] for status in pod["status"]["containerStatuses"]}


def answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


def eventually(true: Callable[[], object], *, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if true():
                return
        except (urllib.error.URLError, OSError, Fault):
            pass
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.2)
