"""The node: containerd, kubelet and kube-proxy on this machine, in a mount and process namespace of their own.

All that they mount, all network namespaces of pods and all containers end with the namespaces' first process: killing that one
process is the whole teardown, whatever state they are in. Only what the host itself must have is in `host.py`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Fault
from core.settings import base_environ
from infra.testcluster import host
from infra.testcluster.addresses import BRIDGE, DOMAIN, GATEWAY, NODE, NODE_PORTS, POD_RANGE
from infra.testcluster.control_plane import ControlPlane
from infra.testcluster.images import busybox_image
from infra.testcluster.state import Home

NAMES = ("holder", "containerd", "kubelet", "proxy")
PAUSE = "seatrial.local/pause:1"
_HOLD = "while :; do sleep 3600 & wait; done"  # the first process: collects orphans, ends when it is killed


@dataclass(frozen=True, slots=True)
class Node:
    """The one node of a home."""

    home: Home
    plane: ControlPlane

    @property
    def folder(self) -> Path:
        """Its configuration and state."""
        return self.home.folder / "node"

    @property
    def socket(self) -> Path:
        """Where containerd listens."""
        return self.folder / "containerd.sock"

    def up(self) -> None:
        """Start what does not run, and return when the node is Ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hold()
        self.home.run("containerd", self.inside("containerd", "--config", self._containerd()), {"PATH": _path()})
        self.home.wait("containerd", self._containerd_answers)
        self._pause_image()
        self.home.run("kubelet", self.inside(*self._kubelet()), {"PATH": _path()})
        self.home.run("proxy", self._proxy(), {"PATH": _path()})
        self.wait()

    def wait(self) -> None:
        """Return when the node is Ready. Raises Fault or Transient."""
        self.home.wait("kubelet", lambda: self.plane.asker.condition(f"/api/v1/nodes/{NODE}", "Ready"))

    def inside(self, *command: str | Path) -> list[str]:
        """Return the command that runs this one in the node's namespaces: its mounts, and DNS of the cluster."""
        return ["nsenter", f"--mount={self._ns('mnt')}", f"--pid={self._ns('pid_for_children')}", "--", *map(str, command)]

    def ctr(self, *arguments: str | Path) -> str:
        """Run containerd's client. Raises Fault with its own words."""
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=base_environ())
        if done.returncode:
            raise Fault(f"ctr {' '.join(map(str, arguments[:2]))}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _ns(self, kind: str) -> str:
        identity = self.home.state.daemons["holder"].identity
        if identity is None:
            raise Fault("the node's namespaces are gone", hint="take the cluster down and up again")
        return f"/proc/{identity.pid}/ns/{kind}"

    def _hold(self) -> None:
        text = f"nameserver {GATEWAY}\nsearch svc.{DOMAIN} {DOMAIN}\noptions ndots:5 timeout:1\n"
        resolv = self.home.configure("node/resolv.conf", text)
        ready = self.folder / "held"
        if not self.home.lives("holder"):
            ready.unlink(missing_ok=True)
        steps = [f"mount -t tmpfs -o mode=755 seatrial {point}" for point in host.MOUNT_POINTS]
        steps += [f"mount --bind {shlex.quote(str(resolv))} /etc/resolv.conf", f"touch {shlex.quote(str(ready))}"]
        script = " && ".join(steps) + f" && {_HOLD}"
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        self.home.run("holder", [*unshare, "--", "sh", "-c", script])
        self.home.wait("holder", ready.exists)

    def _containerd(self) -> Path:
        text = _CONTAINERD.format(folder=self.folder, pause=PAUSE, cni=host.CNI, conf=self._cni())
        return self.home.configure("node/containerd.toml", text)

    def _cni(self) -> Path:
        network = {
            "cniVersion": "0.4.0",
            "name": "seatrial",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": False,  # the bridge has its address already
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "addresses"),
                        "ranges": [[{"subnet": POD_RANGE, "rangeStart": "198.18.1.1", "rangeEnd": "198.18.127.254", "gateway": GATEWAY}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        return self.home.configure("node/cni/10-seatrial.conflist", json.dumps(network, indent=1)).parent

    def _containerd_answers(self) -> bool:
        try:
            return bool(self.ctr("version"))
        except Fault:
            return False

    def _pause_image(self) -> None:
        if PAUSE not in self.ctr("images", "list", "--quiet").split():
            tar = busybox_image(self.home.folder / "images/pause.tar", PAUSE, command=("sleep", "2147483647"))
            self.ctr("images", "import", tar)

    def _kubelet(self) -> Sequence[str | Path]:
        user = f"system:node:{NODE}"
        keys = self.plane.certificates
        serving = keys.issue("kubelet-serving", user, groups=("system:nodes",), hosts=(NODE, GATEWAY))
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": GATEWAY,
            "port": NODE_PORTS["kubelet"],
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(keys.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [GATEWAY],
            "clusterDomain": DOMAIN,
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.home.logs / "pods"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,  # a collected image could not be pulled again
            "serializeImagePulls": False,
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            "makeIPTablesUtilChains": True,
            "shutdownGracePeriod": "0s",
        }
        path = self.home.configure("node/kubelet.json", json.dumps(config, indent=1))
        return [
            self.plane.programs / "kubelet",
            f"--config={path}",
            f"--kubeconfig={self.plane.kubeconfig('kubelet', user, 'system:nodes')}",
            f"--hostname-override={NODE}",
            f"--node-ip={GATEWAY}",
            f"--root-dir={self.folder / 'kubelet'}",
        ]

    def _proxy(self) -> Sequence[str]:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "bindAddress": GATEWAY,
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": str(self.plane.kubeconfig("proxy", "system:kube-proxy"))},
            "healthzBindAddress": f"{GATEWAY}:{NODE_PORTS['proxy-health']}",
            "metricsBindAddress": f"{GATEWAY}:{NODE_PORTS['proxy-metrics']}",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "iptables": {"localhostNodePorts": False, "minSyncPeriod": "200ms"},
            "nodePortAddresses": [f"{GATEWAY}/32"],
        }
        path = self.home.configure("node/proxy.json", json.dumps(config, indent=1))
        return [str(self.plane.programs / "kube-proxy"), f"--config={path}"]


def _path() -> str:
    return base_environ().get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"


_CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "/run/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
