"""Real clusters for tests: one node of this machine, or simulated nodes; and what a machine looks like before and after."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from core.errors import SeatrialError
from infra.testcluster.cluster import Cluster
from infra.testcluster.host import MOUNT_POINTS, bridge_owner

WITHOUT = "SEATRIAL_TEST_WITHOUT_CLUSTER"
_PREFIX = "/tmp/st-k8s-"
_LOCK = "lives"
_KERNEL = ("net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


@contextmanager
def running_cluster(*, simulated_nodes: int = 0) -> Iterator[Cluster]:
    """Give a cluster of our own; afterwards it is gone, and the test fails where it left something on the machine."""
    if os.environ.get(WITHOUT) == "1":
        message = f"{WITHOUT}=1: NOTHING WAS TESTED ON KUBERNETES"
        warnings.warn(message, stacklevel=2)
        pytest.skip(message)
    with ExitStack() as stack:
        if not simulated_nodes:
            stack.enter_context(_turn())
        yield from _running(simulated_nodes)


def _running(simulated_nodes: int) -> Iterator[Cluster]:
    sweep()
    with own_folder(_PREFIX) as folder:
        before = traces(folder)
        cluster = Cluster(folder / "home")
        try:
            try:
                cluster.up(simulated_nodes=simulated_nodes)
            except SeatrialError as error:
                pytest.fail(f"no cluster: {error}", pytrace=False)
            yield cluster
        finally:
            cluster.down()
    after = traces(folder)
    if simulated_nodes and bridge_owner():  # a node lives beside it, whose pods come and go: only processes are surely of this cluster
        before, after = {"processes": before["processes"]}, {"processes": after["processes"]}
    if differs := left(before, after):
        pytest.fail(f"the cluster left something on this machine, before and after: {differs}", pytrace=False)


@contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """Give a folder that is ours while we live, which `sweep` knows by its lock. Its name is short: containerd's socket lies below it."""
    folder = Path(tempfile.mkdtemp(prefix=Path(prefix).name, dir=Path(prefix).parent))
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep() -> list[Path]:
    """Take down the clusters of test runs that were killed, and remove what they left; return the folders. Living runs are left alone."""
    swept = []
    for folder in (*Path("/tmp").glob("st-k8s-*/"), *Path("/tmp").glob("st-kp-*/")):
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # just being made, or just gone
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Cluster(folder / "home").down()
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
    return swept


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for another test run's node on this machine: one machine is one node."""
    handle = os.open("/tmp/st-k8s-node.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        owner = bridge_owner()
        if owner.startswith(_PREFIX):  # of a test run that was killed: a living one would hold the lock
            Cluster(Path(owner)).down()
        yield
    finally:
        os.close(handle)


def left(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Return what differs, as it was and as it is."""
    return {name: (value, after[name]) for name, value in before.items() if value != after[name]}


def traces(folder: Path) -> dict[str, object]:
    """Return what of a cluster is on this machine: processes of the folder, mounts, network, packet rules, settings, cgroups.

    What others do at the same time (a mount of buildah's, another bridge) is not looked at.
    """
    return {
        "processes": _processes(str(folder)),
        "mounts": _about(_read("/proc/self/mountinfo").splitlines(), str(folder), " seatrial ", "kubelet", "containerd", "/netns"),
        "network namespaces": sorted(path.name for path in Path("/run/netns").glob("cni-*")),
        "links": _about([path.name for path in Path("/sys/class/net").iterdir()], "seatrial", "veth"),
        "routes": _about(_said("ip", "route", "show", "table", "all"), "198.18.", "198.19.", "seatrial"),
        "rules": _about(_said("iptables-save") + _said("ip6tables-save"), "KUBE-", "CNI-", "seatrial", "198.18.", "198.19."),
        "settings": {name: _read(f"/proc/sys/{name}") for name in _KERNEL},
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/kubepods*")),
        "folders": [point for point in MOUNT_POINTS if Path(point).exists()],
    }


def _about(lines: list[str], *words: str) -> list[str]:
    return sorted(line for line in lines if any(word in line for word in words))


def _processes(folder: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                marked = f"={folder}/".encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if marked or folder in words:
                found.append(words)
    return found


def _said(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.exists() else ""


if __name__ == "__main__":
    for folder in sweep():
        print(f"took down what a killed test run left in {folder}")  # noqa: T201
