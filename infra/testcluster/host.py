"""What a node changes on the host besides its processes: a bridge, kernel settings, packet rules, cgroups; made and undone here.

Everything else lives in a process and a mount namespace of the node's own (`node.py`) and goes with its last process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from core.errors import Conflict, Fault
from infra.testcluster.addresses import BRIDGE, GATEWAY, POD_RANGE, SERVICE_RANGE
from infra.testcluster.api import wait_until
from infra.testcluster.state import Home

NEEDED = ("containerd", "ctr", "runc", "iptables", "ip", "nsenter", "unshare", "conntrack", "mount", "openssl")
CNI = Path("/usr/lib/cni")
_BRIDGED = "net/bridge/bridge-nf-call-iptables"
_KERNEL = (
    "net/ipv4/ip_forward",
    _BRIDGED,
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What kubelet and kube-proxy set; the values before are put back."""
MOUNT_POINTS = ("/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
"""Paths that containerd, kubelet and CNI have built in. In the node's namespace each is a file system in memory."""
_CGROUPS = Path("/sys/fs/cgroup")
_PODS = "kubepods"
_TABLES = ("filter", "nat", "mangle", "raw")
_OURS = "seatrial-cluster"
_OUR_RULES = (
    ("FORWARD", "-s", POD_RANGE, "!", "-o", BRIDGE, "-j", "REJECT"),  # no packet of a pod leaves this machine
    ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT"),
)


def check(home: Path) -> None:
    """Raise Fault when this machine lacks something, Conflict when it is a node already: ours of another home, or somebody's."""
    if os.geteuid() != 0:
        raise Fault(
            "a real node needs root: namespaces, a bridge and containers are made",
            hint="run as root, or use simulated nodes: up --simulated-nodes 10",
        )
    missing = [name for name in NEEDED if shutil.which(name) is None] + (
        [] if (CNI / "bridge").exists() else ["containernetworking-plugins"]
    )
    if missing:
        raise Fault(f"this machine lacks {', '.join(missing)}", hint="run infra/bin/install-cluster-equipment")
    owner = bridge_owner()
    if owner not in ("", str(home)):
        raise Conflict(
            f"a cluster with a node already runs on this machine, from {owner}",
            hint=f"one machine is one node: take it down first (python -m infra.testcluster down --home {owner})",
        )
    if not owner and (_rules("iptables", "nat") or any(_pod_groups())):
        raise Conflict(
            "this machine is a Kubernetes node already: it has kubelet's packet rules or cgroups",
            hint="use that cluster (up --existing), or simulated nodes (up --simulated-nodes 10)",
        )


def bridge_owner() -> str:
    """Return the home whose cluster made the bridge; empty when there is none. The bridge carries it, so both go together."""
    alias = Path(f"/sys/class/net/{BRIDGE}/ifalias")
    return alias.read_text(encoding="utf-8").strip() if alias.exists() else ""


def prepare(home: Home) -> None:
    """Make the bridge, the routes and the settings that are not there yet."""
    _remember(home)
    _write("net/ipv4/ip_forward", "1")
    if (Path("/proc/sys") / _BRIDGED).exists():
        _write(_BRIDGED, "1")  # else the answer of a pod to another's call of a Service would bypass the translation
    if not bridge_owner():
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("link", "set", BRIDGE, "alias", str(home.folder))
    _ip("address", "replace", f"{GATEWAY}/{POD_RANGE.partition('/')[2]}", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    _ip("route", "replace", SERVICE_RANGE, "dev", BRIDGE)  # without kube-proxy's rules a Service is unreachable, never somebody else's
    for rule in _OUR_RULES:
        tagged = (*rule[1:], "-m", "comment", "--comment", _OURS)
        if not _iptables("iptables", "-C", rule[0], *tagged):
            _iptables("iptables", "-I", rule[0], "1", *tagged)


def restore(home: Home) -> None:
    """Undo everything; to be called when no process of the cluster runs. Calling it twice does no harm."""
    if bridge_owner() == str(home.folder):
        for program in ("iptables", "ip6tables"):
            _clean_rules(program)
        _conntrack()
        _unplug()
        _ip("link", "delete", BRIDGE)
    wait_until("removal of the pods' cgroups", _groups_removed, home.clock, 20.0)  # the kernel needs a moment after the last process
    for name, value in home.state.kernel.items():
        _write(name, value)
    for folder in reversed(home.state.folders):
        with contextlib.suppress(OSError):  # somebody else uses it by now
            Path(folder).rmdir()


def _remember(home: Home) -> None:
    if not home.state.kernel:
        home.state.kernel = {name: _read(name) for name in _KERNEL if (Path("/proc/sys") / name).exists()}
    for point in MOUNT_POINTS:
        if not Path(point).exists():
            home.state.folders.append(point)
    home.save()
    for point in MOUNT_POINTS:
        Path(point).mkdir(parents=True, exist_ok=True)


def _read(name: str) -> str:
    return (Path("/proc/sys") / name).read_text(encoding="ascii").strip()


def _write(name: str, value: str) -> None:
    if _read(name) != value:
        (Path("/proc/sys") / name).write_text(value, encoding="ascii")


def _ip(*arguments: str) -> None:
    done = subprocess.run([shutil.which("ip") or "ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise Fault(f"ip {' '.join(arguments)}: {done.stderr.strip()}", hint="look whether this kernel has bridges and veth pairs")


def _iptables(program: str, *arguments: str) -> bool:
    done = subprocess.run([program, "-w", "5", *arguments], capture_output=True, text=True, check=False, timeout=30)
    return done.returncode == 0


def _rules(program: str, table: str) -> list[str]:
    """Return the lines of `-S` that kubelet, kube-proxy or we made."""
    if shutil.which(program) is None:
        return []
    done = subprocess.run([program, "-w", "5", "-t", table, "-S"], capture_output=True, text=True, check=False, timeout=30)
    return [line for line in done.stdout.splitlines() if re.search(rf"\bKUBE-|{_OURS}", line)]


def _clean_rules(program: str) -> None:
    for table in _TABLES:
        lines = _rules(program, table)
        chains = [line.split()[1] for line in lines if line.startswith("-N ")]
        for line in lines:
            if line.startswith("-A ") and line.split()[1] not in chains:
                _iptables(program, "-t", table, "-D", *_words(line)[1:])
        for chain in chains:
            _iptables(program, "-t", table, "-F", chain)
        for chain in chains:
            _iptables(program, "-t", table, "-X", chain)


def _words(rule: str) -> Sequence[str]:
    return [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', rule)]


def _unplug() -> None:
    """Delete the pods' links. The kernel does it too when it takes their namespaces apart, which a busy machine puts off."""
    for link in Path(f"/sys/class/net/{BRIDGE}/brif").iterdir():
        command = [shutil.which("ip") or "ip", "link", "delete", link.name]
        subprocess.run(command, capture_output=True, check=False, timeout=30)  # it may be gone meanwhile


def _conntrack() -> None:
    for range_ in (POD_RANGE, SERVICE_RANGE):
        subprocess.run([shutil.which("conntrack") or "conntrack", "-D", "-d", range_], capture_output=True, check=False, timeout=30)


def _pod_groups() -> list[Path]:
    return [group for group in (*_CGROUPS.glob(f"*/{_PODS}"), _CGROUPS / _PODS) if group.is_dir()]


def _groups_removed() -> bool:
    for group in _pod_groups():
        for folder, _names, _files in os.walk(group, topdown=False):
            Path(folder).rmdir()
    return not _pod_groups()
