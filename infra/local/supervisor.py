"""Services as child processes: started side by side where they may be, restarted when they crash, gone when we are."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from subprocess import Popen

from core.endings import describe
from core.errors import Conflict, Fault
from core.ports.clock import Clock
from core.reasons import Reason
from infra.local.log_excerpt import excerpt, size
from infra.local.ports import free, holder
from serving.engines import files, processes
from serving.engines.processes import Identity, alive, identify, members

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")
_PASS_S = 0.1
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the stack. `ready` is asked with its pid; `needs` are names of services that must be ready before it starts."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    ready: Callable[[int], bool]
    log: Path
    folder: Path
    """Its own folder: working directory, and the mark by which its children are known."""
    url: str = ""
    needs: tuple[str, ...] = ()
    port: int = 0
    """Where it listens; 0: nowhere."""
    death_signal: Signals = SIGTERM
    """Its parent-death signal: the kernel sends it when the supervisor ends."""
    owns_children: bool = True
    """False for the engine supervisor: its engines keep running and are adopted."""


class PortTaken(Conflict):
    """A service cannot listen: another process took its port after it had been chosen."""

    def __init__(self, service: str, port: int) -> None:
        super().__init__(
            f"{service} cannot listen on port {port}: address already in use by {holder(port)}",
            reason=Reason.PORT_TAKEN,
            hint=f"free the port, or give another --{service}-port",
        )
        self.service = service
        self.port = port


class Event(StrEnum):
    """What is reported of a service."""

    READY = "ready"
    WAITING = "waiting"
    CRASHED = "crashed"
    STOPPED = "stopped"


Report = Callable[[Service, Event, str], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds."""

    start_s: float = 300.0
    notice_s: float = 20.0
    """A service that is not ready after this time is reported, once per start."""
    stop_s: float = 20.0
    first_crashes: int = 3
    """Crashes in a row before a service that was never ready is given up."""


@dataclass(slots=True)
class _Run:
    service: Service
    child: Popen[bytes] | None = None
    identity: Identity | None = None
    started: float = 0.0
    not_before: float = 0.0
    crashes: int = 0
    ready: bool = False
    was_ready: bool = False
    reported_waiting: bool = False
    log_start: int = 0
    """Size of the log at the last start: an earlier process wrote the part before."""


@dataclass(slots=True)
class Supervisor:
    """Keeps `services` up until told to stop. `start` and `run` must be called from the same, lasting thread: children end with it."""

    services: Sequence[Service]
    clock: Clock
    report: Report
    patience: Patience = field(default_factory=Patience)
    changed: Callable[[Mapping[str, Identity]], None] = lambda _running: None
    """Called with who runs, whenever that changes: what `down` needs."""
    log_bytes: int = files.LOG_BYTES
    """Size at which a service's log is cut."""
    _runs: dict[str, _Run] = field(init=False)

    def __post_init__(self) -> None:
        """Order does not matter; needs do."""
        self._runs = {service.name: _Run(service) for service in self.services}

    def start(self, stop: threading.Event) -> bool:
        """Return True when every service is ready, False when told to stop before. Raises Fault when one cannot be started."""
        while not stop.is_set():
            self.step()
            if all(run.ready for run in self._runs.values()):
                return True
            stop.wait(_PASS_S)
        return False

    def run(self, stop: threading.Event) -> None:
        """Keep the services up until `stop` is set."""
        while not stop.wait(_PASS_S * 3):
            self.step()

    def step(self) -> None:
        """Look at every service once. Raises Fault for one that was never ready and will not be, PortTaken where that is why."""
        now = self.clock.monotonic()
        for run in self._runs.values():
            files.bound(run.service.log, self.log_bytes)
            if run.child is not None and run.child.poll() is not None:
                self._crashed(run, now)
            elif run.child is None:
                if now >= run.not_before and all(self._runs[name].was_ready for name in run.service.needs):
                    self._launch(run, now)
            elif not run.ready:
                self._look(run, now)

    def stop(self, hurry: threading.Event) -> None:
        """Stop everything, dependents first, within the limit; `hurry` kills at once."""
        deadline = self.clock.monotonic() + self.patience.stop_s
        asked: set[str] = set()
        while left := [run for run in self._runs.values() if _lives(run)]:
            if hurry.is_set() or self.clock.monotonic() > deadline:
                break
            needed = {name for run in left for name in run.service.needs}
            for run in left:
                if run.service.name not in needed | asked and run.identity is not None:
                    processes.send(run.identity, SIGTERM)
                    asked.add(run.service.name)
            hurry.wait(0.05)
        for run in self._runs.values():
            if run.child is not None:
                self._clear(run)
                self.report(run.service, Event.STOPPED, "")
        self.changed({})

    def _launch(self, run: _Run, now: float) -> None:
        service = run.service
        service.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        service.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        prefix = (sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), str(int(service.death_signal)))
        run.log_start = size(service.log)
        try:
            run.child = processes.start((*prefix, *service.command), service.environ, log=service.log, folder=service.folder)
        except OSError as error:
            raise Fault(f"{service.name} cannot be started: {error.strerror or error}", hint="run `seatrial doctor`") from error
        run.identity, run.started, run.ready, run.reported_waiting = identify(run.child.pid), now, False, False
        self.changed({name: other.identity for name, other in self._runs.items() if other.identity is not None})

    def _look(self, run: _Run, now: float) -> None:
        if run.child is not None and run.service.ready(run.child.pid):
            run.ready = run.was_ready = True
            run.crashes = 0
            self.report(run.service, Event.READY, f"{now - run.started:.1f} s")
        elif now - run.started > self.patience.start_s:
            raise Fault(
                f"{run.service.name} was not ready after {self.patience.start_s:.0f} s: {excerpt(run.service.log, run.log_start)}",
                hint=f"see its log: {run.service.log}",
            )
        elif now - run.started > self.patience.notice_s and not run.reported_waiting:
            run.reported_waiting = True
            limit = f"{now - run.started:.0f} s, limit {self.patience.start_s:.0f} s"
            self.report(run.service, Event.WAITING, f"not ready after {limit}; its log: {run.service.log}")

    def _crashed(self, run: _Run, now: float) -> None:
        code = run.child.returncode if run.child is not None else 0
        self._clear(run)
        run.crashes += 1
        service, said = run.service, f"{describe(code)}: {excerpt(run.service.log, run.log_start)}"
        if not run.was_ready and service.port and not free(service.port):
            raise PortTaken(service.name, service.port)
        if not run.was_ready and run.crashes >= self.patience.first_crashes:
            raise Fault(f"{service.name} ended {run.crashes} times before it was ready ({said})", hint=f"see its log: {service.log}")
        pause = 0.0 if run.crashes == 1 else min(_LONGEST_PAUSE_S, 2.0 ** (run.crashes - 2))
        run.not_before = now + pause
        self.report(service, Event.CRASHED, f"{said}; starts again in {pause:.0f} s")

    def _clear(self, run: _Run) -> None:
        """Kill what is left of it, its children too unless they are to live on."""
        end(run.service.folder, run.identity, descendants=run.service.owns_children, clock=self.clock)
        if run.child is not None:
            run.child.wait()
        run.child, run.identity, run.ready = None, None, False


def end(folder: Path, leader: Identity | None, *, descendants: bool, clock: Clock) -> None:
    """Kill a service's processes and wait until they are gone (5 s at most)."""
    give_up = clock.monotonic() + 5.0
    while left := members(folder, leader, descendants=descendants):
        for process in left:
            processes.send(process, SIGKILL)
        if clock.monotonic() > give_up:
            raise Fault(f"processes {[process.pid for process in left]} do not end", hint="they wait for a disk; see dmesg")
        clock.wait(0.02)


def _lives(run: _Run) -> bool:
    return run.child is not None and run.child.poll() is None and alive(run.identity)
