"""A cluster below one folder: brought up, looked at, broken on purpose, taken down.

cluster = Cluster(Path("/tmp/somewhere"), say=print)
cluster.up()                                  # or cluster.up(simulated_nodes=100)
cluster.load_image(tar)
cluster.down()                                # nothing is left
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL

from core.errors import Conflict, Fault, NotFound, Refused
from infra.testcluster import host
from infra.testcluster.addons import ADDONS, Aggregated, start_dns, start_kwok
from infra.testcluster.addresses import GATEWAY, LOOPBACK, NODE_PORTS, Addresses, free_ports
from infra.testcluster.api import Kubectl
from infra.testcluster.build import Say, build, default_cache
from infra.testcluster.certificates import Certificates, write_kubeconfig
from infra.testcluster.control_plane import ControlPlane
from infra.testcluster.node import Node
from infra.testcluster.state import Home

_LONGEST_PATH = 70
"""containerd's socket lies below the home, and the kernel takes 107 characters."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image on the node. Pods may name it by `name` or pinned, by `pinned` (name@sha256:...)."""

    name: str
    pinned: str


class Cluster:
    """The cluster of one home. Not thread-safe, but a second object of the same home sees what the first one wrote."""

    def __init__(self, home: Path, *, cache: Path | None = None, say: Say = print) -> None:
        """Nothing is started. `cache` is the folder of built programs (default: below the user's cache directory)."""
        self.home = Home(home)
        self._cache = cache or default_cache()
        self._say = say

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig. Raises NotFound before `up`."""
        if not self.home.state.kubeconfig:
            raise NotFound(f"no cluster was created in {self.home.folder}", hint="create one: python -m infra.testcluster up")
        return Path(self.home.state.kubeconfig)

    @property
    def kubectl(self) -> Kubectl:
        """Run kubectl as the administrator: `cluster.kubectl("get", "pods", "-A")` returns what it prints, Fault with its words."""
        return self.plane.kubectl

    def up(self, *, simulated_nodes: int = 0, addons: Sequence[str] = ()) -> None:
        """Bring the cluster up, or what of it does not run. Raises Conflict for another cluster, Fault or Transient with a log's end."""
        if unknown := set(addons) - set(ADDONS):
            raise Refused(f"there is no addon {min(unknown)}", hint=f"use one of {', '.join(ADDONS)}")
        if simulated_nodes and addons:
            raise Refused("addons need a real node", hint="leave out --with, or --simulated-nodes")
        kind = "simulated" if simulated_nodes else "node"
        if self.home.state.kind not in ("", kind):
            self.home.begin(kind)  # says what is wrong
        if kind == "node":
            self._check_node()
        for piece in _pieces(kind, addons):
            build(piece, self._cache, self._say)
        self.home.begin(kind)
        if kind == "node":
            self._up_node(addons)
        else:
            self._up_simulated(simulated_nodes)
        self.home.state.complete = True
        self.home.save()

    def down(self) -> None:
        """Kill every process and undo every change of the machine. Without a cluster it does nothing; a second call continues the first."""
        if not self.home.state.kind:
            return
        self.home.stop_all()
        if self.home.state.kind == "node":
            host.restore(self.home)
        self.home.forget()

    def add(self, *addons: str) -> None:
        """Start addons (ADDONS) on a cluster that is up; those that run are left alone."""
        self.up(addons=addons)

    def status(self) -> dict[str, bool]:
        """Return which processes the cluster has and whether each runs."""
        return {name: self.home.lives(name) for name in self.home.state.daemons}

    def stop(self, name: str, *, kill: bool = False) -> None:
        """Stop one process (`apiserver`, `etcd`, `kubelet`, `proxy`, ...), as a fault for tests. Raises NotFound for another name."""
        if name in ("holder", "containerd"):
            raise Refused(f"{name} holds the pods", hint="take the cluster down instead, or delete the pods")
        if kill:
            self.home.stop(name, signal=SIGKILL)
        else:
            self.home.stop(name)

    def start(self, name: str) -> None:
        """Start a stopped process again, as it was; returns when the API server (and, for kubelet, the node) is ready."""
        self.home.resume(name)
        self.plane.wait()
        if name == "kubelet":
            self.node.wait()

    def restart(self, name: str, *, kill: bool = True) -> None:
        """Stop and start one process; etcd and kubelet come back with all they knew."""
        self.stop(name, kill=kill)
        self.start(name)

    def load_image(self, tar: Path) -> tuple[LoadedImage, ...]:
        """Import a docker or OCI archive into the node and return what it held. Raises Fault with containerd's words."""
        said = self.node.ctr("images", "import", tar.absolute())
        loaded = []
        for name, digest in re.findall(r"^unpacking (\S+) \((sha256:[0-9a-f]{64})\)", said, re.MULTILINE):
            pinned = f"{name.rpartition(':')[0] or name}@{digest}"
            self.node.ctr("images", "tag", "--force", name, pinned)
            loaded.append(LoadedImage(name, pinned))
        if not loaded:
            raise Fault(f"{tar} held no image with a name", hint="save it with its name: buildah push IMAGE docker-archive:FILE:NAME")
        return tuple(loaded)

    def kubeconfig_of_user(self, user: str, *groups: str) -> Path:
        """Return a kubeconfig of a user with these groups and no permissions except what RBAC grants."""
        return self.plane.kubeconfig(
            "-".join(("user", user.replace(":", "-"), *(group.replace(":", "-") for group in groups))), user, *groups
        )

    def kubeconfig_of_service_account(self, namespace: str, name: str, *, life: timedelta = timedelta(hours=2)) -> Path:
        """Return a kubeconfig with a fresh token of a ServiceAccount: exactly what a pod of it may."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, f"--duration={int(life.total_seconds())}s").strip()
        path = self.home.folder / "kubeconfigs" / f"{namespace}-{name}.kubeconfig"
        return write_kubeconfig(path, self.plane.addresses.server, self.plane.certificates.authority.certificate, token=token)

    def share(self, namespace: str, name: str, folder: Path, *, read_only: bool = True) -> None:
        """Make a folder of this machine a PersistentVolumeClaim, as pods under the restricted policy may not use hostPath.

        Such pods do not run as root: the folder must be readable for all users.
        """
        mode = "ReadOnlyMany" if read_only else "ReadWriteMany"
        claim = {
            "accessModes": [mode],
            "storageClassName": "",
            "volumeName": f"{namespace}-{name}",
            "resources": {"requests": {"storage": "1Gi"}},
        }
        volume = {
            "capacity": {"storage": "1Gi"},
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": name},
        }
        self.kubectl.apply(
            [
                {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{name}"}, "spec": volume},
                {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": namespace}, "spec": claim},
            ]
        )

    def inside(self, *command: str | Path) -> list[str]:
        """Return the command that runs this one where the cluster's DNS names resolve, on the host's network."""
        return self.node.inside(*command)

    @property
    def plane(self) -> ControlPlane:
        """The control plane of this home."""
        simulated = self.home.state.kind == "simulated"
        addresses = Addresses(LOOPBACK, self.home.state.ports) if simulated else Addresses(GATEWAY, NODE_PORTS)
        kubernetes, etcd = self._folder("kubernetes"), self._folder("etcd")
        return ControlPlane(self.home, addresses, Certificates(self.home.folder / "certificates"), kubernetes, etcd, simulated)

    @property
    def node(self) -> Node:
        """The real node. Raises NotFound where nodes are simulated."""
        if self.home.state.kind != "node":
            raise NotFound(f"the cluster in {self.home.folder} has no real node", hint="bring one up without --simulated-nodes")
        return Node(self.home, self.plane)

    def _check_node(self) -> None:
        if len(str(self.home.folder)) > _LONGEST_PATH:
            raise Refused(
                f"{self.home.folder} is longer than {_LONGEST_PATH} characters, too long for a socket", hint="give a shorter --home"
            )
        host.check(self.home.folder)

    def _up_node(self, addons: Sequence[str]) -> None:
        host.prepare(self.home)
        self.plane.up()
        self.node.up()
        start_dns(self.home, self.plane, self._folder)
        for addon in addons:
            Aggregated(self.home, self.plane, self.node, self._folder).start(addon)
        for name in self.home.state.daemons:  # addons of an earlier `up`
            self.home.resume(name)

    def _up_simulated(self, nodes: int) -> None:
        if not self.home.state.ports:
            self.home.state.ports = free_ports()
            self.home.save()
        self.plane.up()
        start_kwok(self.home, self.plane, self._folder, nodes)

    def _folder(self, piece: str) -> Path:
        return build(piece, self._cache, self._say).folder


def running(home: Path) -> Cluster:
    """Return the cluster of a home that is up. Raises NotFound or Conflict."""
    cluster = Cluster(home)
    if not cluster.home.state.complete:
        raise NotFound(f"no cluster is up in {home}", hint="bring one up: python -m infra.testcluster up")
    dead = [name for name, lives in cluster.status().items() if not lives]
    if dead:
        raise Conflict(f"{', '.join(dead)} of the cluster in {home} do not run", hint="run up again: it starts what is missing")
    return cluster


def _pieces(kind: str, addons: Sequence[str]) -> tuple[str, ...]:
    """Return what must be built; the names of addons are those of their pieces."""
    return ("etcd", "kubernetes", *(("kwok",) if kind == "simulated" else ("coredns", *addons)))
