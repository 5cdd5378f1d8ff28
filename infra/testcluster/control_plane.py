"""etcd, API server, controller manager and scheduler: their commands, and the order in which they come up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.testcluster.addresses import API_SERVICE, DOMAIN, LOOPBACK, SERVICE_RANGE, Addresses
from infra.testcluster.api import Asker, Kubectl
from infra.testcluster.certificates import Certificates, write_kubeconfig
from infra.testcluster.state import Home

NAMES = ("etcd", "apiserver", "controller-manager", "scheduler")
_KUBELET_CLIENT = "seatrial:kubelet-client"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The control plane of one home. `programs` is the folder of Kubernetes' binaries, `etcd` etcd's."""

    home: Home
    addresses: Addresses
    certificates: Certificates
    programs: Path
    etcd: Path
    simulated: bool

    def up(self) -> None:
        """Start what does not run, and return when the API server is ready."""
        self.home.run("etcd", self._etcd())
        self.home.run("apiserver", self._apiserver())
        self.wait()  # the next two exit when the server stays unavailable
        self.home.run("controller-manager", self._controller_manager())
        self.home.run("scheduler", self._scheduler())
        self.home.state.kubeconfig = str(self.kubeconfig("admin", "seatrial:admin", "system:masters"))

    def wait(self) -> None:
        """Return when the API server says that it is ready. Raises Fault or Transient."""
        self.home.wait("apiserver", lambda: self.asker.answers("/readyz"))

    @property
    def asker(self) -> Asker:
        """The administrator's eyes."""
        admin = self.certificates.issue("admin", "seatrial:admin", groups=("system:masters",))
        return Asker(self.addresses.server, self.certificates.authority.certificate, admin)

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's hands."""
        return Kubectl(self.programs / "kubectl", self.kubeconfig("admin", "seatrial:admin", "system:masters"))

    def kubeconfig(self, name: str, user: str, *groups: str) -> Path:
        """Return the kubeconfig of a user of this name and groups, by certificate."""
        pair = self.certificates.issue(name, user, groups=groups)
        path = self.home.folder / "kubeconfigs" / f"{name}.kubeconfig"
        return path if path.exists() else write_kubeconfig(path, self.addresses.server, self.certificates.authority.certificate, pair=pair)

    def _etcd(self) -> list[str]:
        client, peer = self.addresses.etcd, f"http://{self.addresses.host}:{self.addresses.ports['etcd-peer']}"
        return [
            str(self.etcd / "etcd"),
            "--name=seatrial",
            f"--data-dir={self.home.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=seatrial={peer}",
            "--unsafe-no-fsync",  # a killed process loses nothing by it; only a power cut would
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        host, keys = self.addresses.host, self.certificates
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}", "localhost")
        serving = keys.issue("apiserver", "kube-apiserver", hosts=(*names, host, LOOPBACK, API_SERVICE))
        to_kubelet = keys.issue("apiserver-kubelet-client", _KUBELET_CLIENT, groups=("system:masters",))
        proxy = keys.issue("front-proxy-client", "front-proxy-client", signer="front-proxy-ca")
        private, public = keys.signing_key()
        command = [
            str(self.programs / "kube-apiserver"),
            f"--etcd-servers={self.addresses.etcd}",
            f"--bind-address={host}",
            f"--advertise-address={host}",
            f"--secure-port={self.addresses.ports['api']}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={keys.authority.certificate}",
            f"--kubelet-certificate-authority={keys.authority.certificate}",
            f"--kubelet-client-certificate={to_kubelet.certificate}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--requestheader-client-ca-file={keys.front_proxy.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={proxy.certificate}",
            f"--proxy-client-key-file={proxy.key}",
            "--enable-aggregator-routing=true",
            "--profiling=false",
        ]
        # An endpoint may not be a loopback address: simulated pods never call the API, so theirs has none.
        return [*command, "--endpoint-reconciler-type=none"] if self.simulated else command

    def _controller_manager(self) -> list[str]:
        private, _public = self.certificates.signing_key()
        authority = self.certificates.authority
        kubeconfig = self.kubeconfig("controller-manager", "system:kube-controller-manager")
        return [
            str(self.programs / "kube-controller-manager"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={self.addresses.host}",
            f"--secure-port={self.addresses.ports['controller-manager']}",
            f"--root-ca-file={authority.certificate}",
            f"--service-account-private-key-file={private}",
            f"--cluster-signing-cert-file={authority.certificate}",
            f"--cluster-signing-key-file={authority.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--horizontal-pod-autoscaler-sync-period=5s",  # 15 s is the default; a test of autoscaling waits for several rounds
            "--pvclaimbinder-sync-period=2s",  # 15 s is the default, and a claim waits for one
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--profiling=false",
        ]

    def _scheduler(self) -> list[str]:
        kubeconfig = self.kubeconfig("scheduler", "system:kube-scheduler")
        return [
            str(self.programs / "kube-scheduler"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={self.addresses.host}",
            f"--secure-port={self.addresses.ports['scheduler']}",
            "--leader-elect=false",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--profiling=false",
        ]
