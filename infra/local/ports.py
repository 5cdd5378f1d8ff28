"""Which port each service of the embedded stack gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import Conflict, Fault

DEFAULTS: Mapping[str, int] = {"prefect": 4200, "mlflow": 5000, "control": 8700, "gateway": 8800}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ports by service; `notes` say which are not the expected ones, and why."""

    ports: Mapping[str, int]
    notes: tuple[str, ...]


def choose(given: Mapping[str, int | None], remembered: Mapping[str, int]) -> Chosen:
    """Choose: what a flag gives (Conflict when it is taken), else last time's, else the default, else a free one."""
    ports: dict[str, int] = {}
    notes: list[str] = []
    for name, default in DEFAULTS.items():
        wanted = given.get(name)
        if wanted is not None and not free(wanted):
            raise Conflict(f"port {wanted} for {name} is taken by {holder(wanted)}", hint=f"free it, or give another --{name}-port")
        expected = wanted or remembered.get(name) or default
        ports[name] = expected if expected not in ports.values() and free(expected) else _any_free(set(ports.values()))
        if ports[name] != expected:
            notes.append(f"port {expected} is taken by {holder(expected)}: {name} gets {ports[name]}")
    return Chosen(ports, tuple(notes))


def free(port: int) -> bool:
    """Say whether a loopback port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_free(taken: set[int]) -> int:
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
    raise Fault("no loopback port is free", hint="close connections or widen net.ipv4.ip_local_port_range")


def holder(port: int) -> str:
    """Name the process that listens on a port, where /proc shows it to us."""
    inodes = _listening(port)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _holds(entry, inodes):
            return f"process {entry.name}{_command(entry)}"
    return "another process"


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it has ended meanwhile
        return ""
    return f" ({words[:80]})"


def listens(port: int, pids: Iterable[int]) -> bool:
    """Say whether one of these processes listens on a port: what answers there may be somebody else's."""
    inodes = _listening(port)
    return any(_holds(Path("/proc") / str(pid), inodes) for pid in pids)


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        for line in path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(handle) in inodes for handle in (process / "fd").iterdir())  # noqa: PTH115 - not a path
    except OSError:
        return False
