"""What runs beside the control plane: CoreDNS, KEDA, metrics-server and kwok. All of them are processes of this machine with a kubeconfig.

KEDA and metrics-server answer the API server as aggregated APIs: a Service without a selector whose one endpoint is the bridge's
address. KEDA runs in the node's namespace, so that it resolves the cluster's names as a pod would.
"""

from __future__ import annotations

import base64
import http.client
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.testcluster.addresses import DOMAIN, GATEWAY, LOOPBACK, NODE_PORTS, SIMULATED_POD_RANGE
from infra.testcluster.api import Manifest
from infra.testcluster.control_plane import ControlPlane
from infra.testcluster.node import Node
from infra.testcluster.state import Home

ADDONS = ("keda", "metrics-server")
_SIMULATED = {"seatrial.dev/simulated": "true"}

Folders = Callable[[str], Path]
"""From a piece's name to the folder of its programs; builds it where needed."""


def start_dns(home: Home, plane: ControlPlane, folders: Folders) -> None:
    """Start CoreDNS on the bridge's address and return when it serves the cluster's names."""
    user = "seatrial:coredns"
    plane.kubectl.apply(_reader(user))
    ready = f"{GATEWAY}:8181"
    kubeconfig = plane.kubeconfig("coredns", user)
    corefile = home.configure(
        "node/Corefile",
        f".:{NODE_PORTS['dns']} {{\n  bind {GATEWAY}\n  errors\n  ready {ready}\n"
        f"  kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{\n    kubeconfig {kubeconfig}\n    pods insecure\n    ttl 5\n  }}\n"
        "  cache 5\n}\n",
    )
    home.run("coredns", [str(folders("coredns") / "coredns"), "-conf", str(corefile)])
    home.wait("coredns", lambda: _plain(ready, "/ready"))


def start_kwok(home: Home, plane: ControlPlane, folders: Folders, nodes: int) -> None:
    """Start kwok and make `nodes` nodes of 64 cores and 512 GiB; return when the last is Ready."""
    kubeconfig = plane.kubeconfig("kwok", "seatrial:kwok", "system:masters")
    command = [
        str(folders("kwok") / "kwok"),
        f"--kubeconfig={kubeconfig}",
        "--manage-nodes-with-label-selector=seatrial.dev/simulated=true",
        f"--cidr={SIMULATED_POD_RANGE}",
        f"--node-ip={LOOPBACK}",
        "--node-lease-duration-seconds=200",
        f"--server-address={LOOPBACK}:{plane.addresses.ports['kwok']}",
    ]
    home.run("kwok", command)
    plane.kubectl.apply([simulated_node(number) for number in range(nodes)])
    last = f"/api/v1/nodes/{simulated_node(nodes - 1)['metadata']['name']}"
    home.wait("kwok", lambda: plane.asker.condition(last, "Ready"))


def simulated_node(number: int) -> Manifest:
    """Return a node that kwok plays; each fourth has eight GPUs."""
    room = {"cpu": "64", "memory": "512Gi", "pods": "250", "ephemeral-storage": "1Ti"}
    room |= {"nvidia.com/gpu": "8"} if number % 4 == 3 else {}  # noqa: PLR2004 - each fourth
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"simulated-{number:04d}",
            "labels": {**_SIMULATED, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "status": {"capacity": room, "allocatable": room},
    }


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Starts the servers behind the API server. Only on a cluster with a node: they use its network."""

    home: Home
    plane: ControlPlane
    node: Node
    folders: Folders

    def start(self, name: str) -> None:
        """Start one of ADDONS and return when its API is Available."""
        {"keda": self._keda, "metrics-server": self._metrics_server}[name]()

    def _keda(self) -> None:
        folder, ports = self.folders("keda"), NODE_PORTS
        user = "seatrial:keda"
        self.plane.kubectl.apply([_KEDA_NAMESPACE, _administrator(user), *_EXTERNAL_METRICS_READER])
        self.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder / "config/crd/bases"))
        names = [
            f"{service}.keda{suffix}" for service in ("keda-operator", "keda-metrics-apiserver") for suffix in (".svc", f".svc.{DOMAIN}")
        ]
        certificates = self._certificates("keda", user, (*names, GATEWAY))
        environ = {
            "KUBECONFIG": str(self.plane.kubeconfig("keda", user)),
            "POD_NAMESPACE": "keda",
            "KEDA_CLUSTER_OBJECT_NAMESPACE": "keda",
            "WATCH_NAMESPACE": "",
        }
        operator: list[str | Path] = [
            folder / "keda-operator",
            "--zap-encoder=console",
            f"--cert-dir={certificates}",
            f"--metrics-bind-address={GATEWAY}:{ports['keda-metrics']}",
            f"--health-probe-bind-address={GATEWAY}:{ports['keda-health']}",
            f"--metrics-service-bind-address={GATEWAY}:{ports['keda-grpc']}",
        ]
        self.home.run("keda-operator", self.node.inside(*operator), environ)
        adapter: list[str | Path] = [
            folder / "keda-adapter",
            *self._serving(certificates, environ["KUBECONFIG"], ports["keda-api"]),
            f"--lister-kubeconfig={environ['KUBECONFIG']}",
            f"--metrics-service-address={GATEWAY}:{ports['keda-grpc']}",
            f"--port={ports['keda-adapter-metrics']}",
        ]
        self.home.run("keda-adapter", self.node.inside(*adapter), environ)
        self._aggregate("keda", "keda-metrics-apiserver", "external.metrics.k8s.io", ports["keda-api"], "keda-adapter")

    def _metrics_server(self) -> None:
        user = "seatrial:metrics-server"
        self.plane.kubectl.apply([_administrator(user)])
        certificates = self._certificates("metrics-server", user, ("metrics-server.kube-system.svc", GATEWAY))
        kubeconfig = str(self.plane.kubeconfig("metrics-server", user))
        command = [
            str(self.folders("metrics-server") / "metrics-server"),
            *self._serving(certificates, kubeconfig, NODE_PORTS["metrics-server"]),
            f"--kubeconfig={kubeconfig}",
            f"--kubelet-certificate-authority={self.plane.certificates.authority.certificate}",
            "--kubelet-preferred-address-types=InternalIP",
            "--metric-resolution=10s",
            "--kubelet-request-timeout=5s",  # must be shorter
        ]
        self.home.run("metrics-server", command)
        self._aggregate("kube-system", "metrics-server", "metrics.k8s.io", NODE_PORTS["metrics-server"], "metrics-server")

    def _serving(self, certificates: Path, kubeconfig: str, port: int) -> list[str]:
        return [
            f"--bind-address={GATEWAY}",
            f"--secure-port={port}",
            f"--cert-dir={certificates}",
            f"--tls-cert-file={certificates / 'tls.crt'}",
            f"--tls-private-key-file={certificates / 'tls.key'}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
        ]

    def _certificates(self, name: str, user: str, hosts: tuple[str, ...]) -> Path:
        """Return a folder as such servers want it: ca.crt, tls.crt and tls.key."""
        folder = self.home.folder / "certificates" / name
        folder.mkdir(parents=True, exist_ok=True)
        pair = self.plane.certificates.issue(f"{name}-serving", user, hosts=hosts)
        for target, source in (
            ("tls.crt", pair.certificate),
            ("tls.key", pair.key),
            ("ca.crt", self.plane.certificates.authority.certificate),
        ):
            (folder / target).write_bytes(source.read_bytes())
        (folder / "tls.key").chmod(0o600)
        return folder

    def _aggregate(self, namespace: str, service: str, group: str, port: int, process: str) -> None:
        authority = base64.b64encode(self.plane.certificates.authority.certificate.read_bytes()).decode()
        name = f"v1beta1.{group}"
        self.plane.kubectl.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": service, "namespace": namespace},
                    "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
                },
                _endpoint(namespace, service, port),
                {
                    "apiVersion": "apiregistration.k8s.io/v1",
                    "kind": "APIService",
                    "metadata": {"name": name},
                    "spec": {
                        "group": group,
                        "version": "v1beta1",
                        "groupPriorityMinimum": 100,
                        "versionPriority": 100,
                        "caBundle": authority,
                        "service": {"name": service, "namespace": namespace, "port": 443},
                    },
                },
            ]
        )
        path = f"/apis/apiregistration.k8s.io/v1/apiservices/{name}"
        self.home.wait(process, lambda: self.plane.asker.condition(path, "Available"))


def _plain(address: str, path: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    finally:
        connection.close()


_RBAC = "rbac.authorization.k8s.io"
_KEDA_NAMESPACE: Manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "keda"}}


def _bound(name: str, role: str, subject: Manifest) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }


def _role(name: str, groups: tuple[str, ...], resources: tuple[str, ...]) -> Manifest:
    rule = {"apiGroups": groups, "resources": resources, "verbs": ("get", "list", "watch")}
    return {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": [rule]}


def _user(name: str) -> Manifest:
    return {"kind": "User", "name": name, "apiGroup": _RBAC}


def _administrator(user: str) -> Manifest:
    """Return the rule that permits everything: the permissions of the cluster's own parts are not under test."""
    return _bound(user, "cluster-admin", _user(user))


def _reader(user: str) -> tuple[Manifest, ...]:
    resources = ("endpoints", "services", "pods", "namespaces", "endpointslices")
    return _role(user, ("", "discovery.k8s.io"), resources), _bound(user, user, _user(user))


_AUTOSCALER: Manifest = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
_EXTERNAL_METRICS_READER: tuple[Manifest, ...] = (
    _role("keda-external-metrics-reader", ("external.metrics.k8s.io",), ("*",)),
    _bound("keda-hpa-controller-external-metrics", "keda-external-metrics-reader", _AUTOSCALER),
)


def _endpoint(namespace: str, service: str, port: int) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
