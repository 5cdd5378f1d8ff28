"""What a cluster is made of, in one file below its home, and its processes: started, found again, stopped by identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from subprocess import Popen
from typing import Any

from core.errors import Conflict, Fault, NotFound, Transient
from core.ports.clock import Clock, SystemClock
from core.settings import base_environ
from infra.testcluster.api import wait_until
from serving.engines.processes import Identity, alive, ended, identify, members, send, start

_FILE = "cluster.json"
_LOOK_S = 0.05
_TERM_LIMIT_S = 10.0
_KILL_LIMIT_S = 20.0


@dataclass(slots=True)
class Daemon:
    """One process of the cluster: how it is started and who it was last."""

    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None


@dataclass(slots=True)
class State:
    """The file `cluster.json`. Everything that `down` must undo is written here before it is done."""

    kind: str = ""
    """"node", "simulated", "kind" or "existing"; empty for a home without a cluster."""
    ports: dict[str, int] = field(default_factory=dict)
    daemons: dict[str, Daemon] = field(default_factory=dict)
    kernel: dict[str, str] = field(default_factory=dict)
    """Kernel settings as they were before, by path below /proc/sys."""
    folders: list[str] = field(default_factory=list)
    """Empty folders outside of the home that were made as places to mount on."""
    kubeconfig: str = ""
    complete: bool = False
    """True when `up` came to its end."""


class Home:
    """The one directory of a cluster: state, certificates, data, logs. Not thread-safe; one caller at a time."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder.absolute()
        self.clock = clock or SystemClock()
        self.state = self._read()
        self._children: dict[int, Popen[bytes]] = {}

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.folder / "logs"

    def begin(self, kind: str) -> None:
        """Take the home for a cluster of this kind. Raises Conflict when it has one of another kind."""
        if self.state.kind not in ("", kind):
            raise Conflict(
                f"{self.folder} already has a cluster of kind {self.state.kind}, not {kind}",
                hint="take it down first (python -m infra.testcluster down), or give another --home",
            )
        self.logs.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.state.kind = kind
        self.save()

    def save(self) -> None:
        """Write the state, whole or not at all."""
        unfinished = self.folder / f".{_FILE}"
        unfinished.write_text(json.dumps(asdict(self.state), indent=1), encoding="utf-8")
        unfinished.rename(self.folder / _FILE)

    def configure(self, name: str, text: str) -> Path:
        """Write a configuration file below the home and return it. One that says so already is left alone: kube-proxy ends at a rewrite."""
        path = self.folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return path

    def run(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Start a process under this name unless it runs already; what is written down is started again by `resume`."""
        known = self.state.daemons.get(name)
        if known is not None and self.lives(name):
            return
        self.state.daemons[name] = Daemon(tuple(command), dict(environ or {}))
        self.resume(name)

    def resume(self, name: str) -> None:
        """Start a process as it was started last. Nothing happens when it runs. Raises Fault when it cannot be started."""
        daemon = self._daemon(name)
        if self.lives(name):
            return
        try:
            child = start(daemon.command, {**base_environ(), **daemon.environ}, log=self.logs / f"{name}.log", folder=self.folder)
        except OSError as error:
            raise Fault(f"{name} cannot be started: {error}", hint=f"look at {daemon.command[0]}") from error
        self._children[child.pid] = child
        daemon.identity = identify(child.pid) or ended(child.pid)
        self.save()

    def lives(self, name: str) -> bool:
        """Say whether the process of this name runs."""
        self.reap()
        daemon = self.state.daemons.get(name)
        return daemon is not None and alive(daemon.identity)

    def wait(self, name: str, ready: Callable[[], bool], limit_s: float = 90.0) -> None:
        """Return when `ready` says so. Raises Fault with its log's end when the process ends before, Transient after the limit."""

        def looked() -> bool:
            if not self.lives(name):
                raise Fault(f"{name} ended unexpectedly: {self.tail(name).strip()[-900:]}", hint="correct the cause and run `up` again")
            return ready()

        wait_until(name, looked, self.clock, limit_s, why=lambda: self.tail(name))

    def stop(self, name: str, *, signal: Signals = SIGTERM) -> None:
        """Stop one process with all of its session; killed when it has not ended in ten seconds. Returns when it is gone."""
        daemon = self._daemon(name)
        if alive(daemon.identity):
            self._end(lambda: _session(daemon.identity), signal)

    def stop_all(self) -> None:
        """Kill every process of this home, recorded or not, with all that descends from them."""
        self._end(lambda: members(self.folder, None), SIGKILL)

    def reap(self) -> None:
        """Reap children that ended, so that they do not stay zombies."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]

    def forget(self) -> None:
        """Remove the home and all that is in it. Raises Fault while something is mounted there: it could be somebody's data."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
        inside = [mount for mount in mounts if Path(mount).is_relative_to(self.folder)]
        if inside:
            raise Fault(f"{inside[0]} is still mounted, so {self.folder} is not removed", hint=f"umount {inside[0]}, then run down again")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.state = State()

    def tail(self, name: str, characters: int = 1500) -> str:
        """Return the end of a process's log."""
        log = self.logs / f"{name}.log"
        return log.read_text(encoding="utf-8", errors="replace")[-characters:] if log.exists() else ""

    def _daemon(self, name: str) -> Daemon:
        if name not in self.state.daemons:
            raise NotFound(f"this cluster has no process {name}", hint=f"it has: {', '.join(self.state.daemons) or 'none'}")
        return self.state.daemons[name]

    def _end(self, who: Callable[[], tuple[Identity, ...]], signal: Signals) -> None:
        begun = self.clock.monotonic()
        told = False
        while left := who():
            waited = self.clock.monotonic() - begun
            if waited > _KILL_LIMIT_S:
                raise Transient(f"{len(left)} processes of the cluster do not end, first {left[0].pid}", hint="run down again")
            if not told or waited > _TERM_LIMIT_S:
                for identity in left:
                    send(identity, SIGKILL if waited > _TERM_LIMIT_S else signal)
                told = signal != SIGKILL
            self.clock.wait(_LOOK_S)
            self.reap()
        self.reap()

    def _read(self) -> State:
        path = self.folder / _FILE
        if not path.exists():
            return State()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            raw["daemons"] = {name: _daemon(entry) for name, entry in raw["daemons"].items()}
            return State(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(f"{path} cannot be read: {error}", hint="it is another version's: take the cluster down with that one") from error


def _daemon(entry: Mapping[str, Any]) -> Daemon:
    identity = Identity(**entry["identity"]) if entry["identity"] else None
    return Daemon(tuple(entry["command"]), entry["environ"], identity)


def _session(leader: Identity | None) -> tuple[Identity, ...]:
    nobody = Path("/nonexistent")
    return members(nobody, leader, descendants=False)
