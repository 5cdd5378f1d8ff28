"""The engine supervisor: reconciles the engines of one folder with their desired states, one pass at a time.

All its state is in the folder. If it is killed, the next supervisor continues from that state: engines run in sessions of their own, and
the next supervisor adopts them by pid and start time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from subprocess import Popen, TimeoutExpired

import structlog

from core.engines import EngineCause, EnginePhase, EngineSpec
from core.errors import Conflict, Fault, Refused
from core.ids import VersionId
from core.ports.clock import Clock
from serving.engines import files, processes
from serving.engines.causes import START, Diagnosis, diagnose
from serving.engines.endings import Ending
from serving.engines.files import DesiredState, EngineFiles, EngineStatus
from serving.engines.fork_server import ForkServer
from serving.engines.launcher import Launcher
from serving.engines.memory import bounds
from serving.engines.probe import HttpProbe, Probe
from serving.engines.processes import alive, identify

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the engine supervisor; times in seconds."""

    start_s: float = 600.0
    hang_s: float = 30.0
    """A ready engine whose /health fails for this long is killed and started again."""
    starts: int = 3
    """Starts in a row that may fail before the engine is given up."""
    pause_s: float = 0.25
    """Between two passes."""
    look_s: float = 2.0
    """Between two looks at the health of a ready engine."""
    steady_s: float = 60.0
    """An engine that was ready for this long has its earlier crashes forgiven."""
    longest_pause_s: float = 60.0
    shutdown_drain_s: float = 10.0
    """The drain of engines when the engine supervisor is stopped."""
    log_bytes: int = files.LOG_BYTES
    """Size at which an engine's log is cut."""


class EngineSupervisor:
    """Supervises the engines of `folder`. One supervisor per folder: a second one raises Conflict."""

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        clock: Clock,
        *,
        limits: Limits | None = None,
        probe: Probe | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._clock = clock
        self._limits = limits or Limits()
        self._probe = probe or HttpProbe()
        self._fork_server = fork_server
        self._children: dict[int, Popen[bytes]] = {}
        self._codes: dict[int, int] = {}
        self._generations: dict[VersionId, tuple[int, Future[bool]]] = {}
        self._looked: dict[VersionId, float] = {}
        self._held = ExitStack()
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="engine-supervisor")

    def run(self, stop: threading.Event) -> None:
        """Reconcile until `stop` is set, then stop every engine gracefully; desired states stay. Raises Conflict as `open` does."""
        self.open()
        try:
            while not stop.is_set():
                self.step()
                stop.wait(self._limits.pause_s)
            self.shut_down()
        finally:
            self.close()

    def open(self) -> None:
        """Become the supervisor of the folder. Raises Conflict if another process is."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(files.supervisor_lock(self._folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            other = files.supervisor(self._folder)
            who = f"process {other.pid}" if other else "another process"
            raise Conflict(f"{who} already supervises the engines of {self._folder}", hint="stop it, or give another --home") from error
        files.rename_former_files(self._folder)
        me = identify(os.getpid())
        if me is not None:
            files.save_supervisor(self._folder, me)

    def close(self) -> None:
        """Release the folder; engines keep running."""
        if self._fork_server is not None:
            self._fork_server.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._held.close()

    def step(self) -> None:
        """Take the next action for every engine. Never waits for an engine to start or stop; waits up to the timeout for its health."""
        self._reap()
        if self._fork_server is not None:
            self._fork_server.ensure()
        for done in [self._pool.submit(self._advance, version) for version in files.versions(self._folder)]:
            done.result()

    def shut_down(self) -> None:
        """Stop every engine, drained within the limit; desired states stay."""
        deadline = self._clock.now() + self._limits.shutdown_drain_s
        leaving = list(files.versions(self._folder))
        while leaving:
            self._reap()
            leaving = [version for version in leaving if not self._stopped(version, deadline)]
            if leaving:
                self._clock.wait(0.05)

    def _advance(self, version: VersionId) -> None:
        engine = EngineFiles(self._folder / version)
        try:
            desired, status = engine.desired(), engine.status()
            if desired is None or not desired.wanted:
                self._dismiss(version, engine, desired)
            elif status is None or status.attempt != desired.attempt:
                self._begin(version, engine, desired, status)
            else:
                self._keep(version, engine, desired, status)
        except (Fault, OSError) as error:
            log.exception("engine.pass_failed", version=version, cause=str(error))

    def _keep(self, version: VersionId, engine: EngineFiles, desired: DesiredState, status: EngineStatus) -> None:
        engine.bound_log(self._limits.log_bytes)
        match status.phase:
            case EnginePhase.FAILED:
                return
            case EnginePhase.READY if alive(status.process):
                self._watch(version, engine, status)
            case EnginePhase.READY:
                self._crashed(engine, status, self._diagnose(engine, desired.spec, status))
            case _ if status.process is None:
                if self._clock.now() >= status.not_before:
                    self._launch(engine, desired, status)
            case _ if alive(status.process):
                self._await(version, engine, status)
            case _:
                self._start_failed(engine, status, self._diagnose(engine, desired.spec, status))

    def _begin(self, version: VersionId, engine: EngineFiles, desired: DesiredState, old: EngineStatus | None) -> None:
        """Start an attempt, after killing what an earlier one left, or a supervisor that died between a start and its status."""
        if old is not None and old.process is not None:
            deadline = old.not_before if old.asked_to_stop else self._clock.now() + self._limits.shutdown_drain_s
            if not self._stopped(version, deadline):
                return
        self._kill(engine, old)
        status = EngineStatus(desired.attempt, EnginePhase.STARTING, self._clock.now(), port=old.port if old else None, detail="starts")
        engine.save_status(status)
        self._launch(engine, desired, status)

    def _launch(self, engine: EngineFiles, desired: DesiredState, status: EngineStatus) -> None:
        if self._fork_server is not None and self._fork_server.warming():
            return  # a later pass finds it ready sooner than a cold start would be
        now = self._clock.now()
        port = _free_port(status.port)
        status = replace(status, port=port, launched=now, process=None, unhealthy_since=None)
        engine.save_status(status)
        engine.note(f"{START} {desired.spec.version} on port {port}")
        try:
            pid = self._start(engine, desired.spec, port)
        except (OSError, Refused) as error:
            why = Diagnosis(EngineCause.UNSTARTABLE, f"it cannot be started: {error}", permanent=isinstance(error, Refused))
            self._start_failed(engine, status, why)
            return
        engine.save_status(replace(status, process=identify(pid) or processes.ended(pid)))
        log.info("engine.started", version=desired.spec.version, pid=pid, port=port, restarts=status.restarts)

    def _start(self, engine: EngineFiles, spec: EngineSpec, port: int) -> int:
        """Start the process, forked from the fork server if there is one, and return its pid. Raises OSError and Refused."""
        command, environ = self._launcher.command(spec, port), self._launcher.environ(spec)
        if self._fork_server is not None and self._fork_server.ready():
            warm = self._fork_server.fork(command[command.index("-m") + 2 :], engine.log, environ)
            if warm is not None:
                return warm
        child = processes.start(command, environ, log=engine.log, folder=engine.folder)
        self._children[child.pid] = child
        return child.pid

    def _await(self, version: VersionId, engine: EngineFiles, status: EngineStatus) -> None:
        """Set the phase to ready once the engine is healthy and has generated one token."""
        waited = self._clock.now() - status.launched
        if waited > self._limits.start_s:
            why = Diagnosis(EngineCause.START_TIMEOUT, f"it was not ready after {self._limits.start_s:.0f} s")
            self._start_failed(engine, status, why)
            return
        if not self._generated(version, status):
            return
        log.info("engine.ready", version=version, port=status.port, load_seconds=round(waited, 2))
        engine.save_status(
            replace(status, phase=EnginePhase.READY, since=self._clock.now(), detail="", cause=None, failed_starts=0, load_seconds=waited)
        )

    def _generated(self, version: VersionId, status: EngineStatus) -> bool:
        assert status.port is not None  # noqa: S101 - a status with a process has a port
        pid = status.process.pid if status.process else 0
        known = self._generations.get(version)
        if known is None or known[0] != pid:
            if self._probe.healthy(status.port):
                self._generations[version] = (pid, self._pool.submit(self._probe.generates, status.port, version))
            return False
        if not known[1].done():
            return False
        del self._generations[version]
        return known[1].result()

    def _watch(self, version: VersionId, engine: EngineFiles, status: EngineStatus) -> None:
        now = self._clock.now()
        if now - self._looked.get(version, 0.0) < self._limits.look_s or status.port is None:
            return
        self._looked[version] = now
        if self._probe.healthy(status.port):
            if status.unhealthy_since is not None:
                engine.save_status(replace(status, unhealthy_since=None))
        elif status.unhealthy_since is None:
            engine.save_status(replace(status, unhealthy_since=now))
        elif now - status.unhealthy_since >= self._limits.hang_s:
            why = Diagnosis(EngineCause.UNRESPONSIVE, f"it did not answer /health for {self._limits.hang_s:.0f} s")
            self._crashed(engine, status, why)

    def _diagnose(self, engine: EngineFiles, spec: EngineSpec, status: EngineStatus) -> Diagnosis:
        """Find out why a process ended, from its exit status and its log."""
        return diagnose(engine.tail(4000), self._ending(status), memory=bounds(spec.memory_bytes))

    def _ending(self, status: EngineStatus) -> Ending:
        """Return how an engine's server ended. Only its parent knows: this supervisor or its fork server. Unknown if adopted."""
        pid = status.process.pid if status.process else 0
        child = self._children.pop(pid, None)
        if child is not None:
            with contextlib.suppress(TimeoutExpired):
                self._codes[pid] = child.wait(timeout=1.0)
        code = self._codes.pop(pid, None)
        if code is None and self._fork_server is not None:
            code = self._fork_server.ended(pid)
        return Ending.of_returncode(code)

    def _crashed(self, engine: EngineFiles, status: EngineStatus, why: Diagnosis) -> None:
        """Restart one that was ready: at once the first time, then with growing pauses."""
        now = self._clock.now()
        crashes = 1 if now - status.since > self._limits.steady_s else status.crashes + 1
        pause = 0.0 if crashes == 1 else self._pause(crashes - 1)
        log.warning("engine.died", version=engine.folder.name, cause=why.cause, detail=why.text, pause_s=pause)
        next_status = replace(
            status,
            phase=EnginePhase.RESTARTING,
            since=now,
            detail=why.text,
            cause=why.cause,
            restarts=status.restarts + 1,
            crashes=crashes,
            not_before=now + pause,
        )
        engine.save_status(next_status)  # before the kill: the gateway must not be sent to it any more
        self._kill(engine, status)
        engine.save_status(replace(next_status, process=None))

    def _start_failed(self, engine: EngineFiles, status: EngineStatus, why: Diagnosis) -> None:
        self._kill(engine, status)
        failed = status.failed_starts + 1
        now = self._clock.now()
        given_up = why.permanent or failed >= self._limits.starts
        pause = self._pause(failed)
        log.warning(
            "engine.start_failed",
            version=engine.folder.name,
            cause=why.cause,
            detail=why.text,
            failed_starts=failed,
            given_up=given_up,
        )
        engine.save_status(
            replace(
                status,
                phase=EnginePhase.FAILED if given_up else status.phase,
                since=now if given_up else status.since,
                process=None,
                detail=why.text if given_up else f"start {failed} failed, the next one comes in {pause:.0f} s: {why.text}",
                cause=why.cause,
                failed_starts=failed,
                restarts=status.restarts + (0 if given_up else 1),
                not_before=now + pause,
            )
        )

    def _pause(self, count: int) -> float:
        return float(min(self._limits.longest_pause_s, 2.0 ** min(count - 1, 16)))

    def _dismiss(self, version: VersionId, engine: EngineFiles, desired: DesiredState | None) -> None:
        if self._stopped(version, desired.deadline if desired else 0.0):
            engine.forget_unwanted()
            log.info("engine.stopped", version=version)

    def _stopped(self, version: VersionId, deadline: float) -> bool:
        """Bring a stop one step on: SIGTERM once, then time until `deadline`, then SIGKILL for all. True when nothing is left."""
        engine = EngineFiles(self._folder / version)
        status = engine.status()
        if status is not None and status.phase is EnginePhase.FAILED and status.process is None:
            return True  # keeps its status, which says why, until somebody stops or applies it
        if status is not None and alive(status.process) and self._clock.now() < deadline:
            self._ask_to_stop(engine, status, deadline)
            return False
        self._kill(engine, status)
        engine.drop_status()
        return True

    def _ask_to_stop(self, engine: EngineFiles, status: EngineStatus, deadline: float) -> None:
        if status.process is not None and not status.asked_to_stop:
            engine.save_status(
                replace(status, phase=EnginePhase.STOPPING, since=self._clock.now(), asked_to_stop=True, not_before=deadline)
            )
            processes.send(status.process, SIGTERM)

    def _kill(self, engine: EngineFiles, status: EngineStatus | None) -> None:
        """End every process of the engine, now. The kernel needs a moment for each; wait for it, so that a port is free again."""
        leader = status.process if status else None
        give_up = self._clock.monotonic() + 10.0
        while left := processes.members(engine.folder, leader):
            for process in left:
                processes.send(process, SIGKILL)
            self._reap()
            if self._clock.monotonic() > give_up:
                raise Fault(f"processes {[process.pid for process in left]} do not end", hint="they wait for a disk or a device; see dmesg")
            self._clock.wait(0.02)
        if leader is not None:
            self._codes.pop(leader.pid, None)
            if self._fork_server is not None:
                self._fork_server.forget(leader.pid)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            code = child.poll()
            if code is not None:
                self._codes[pid] = code
                self._children.pop(pid, None)


def _free_port(preferred: int | None) -> int:
    """Return a loopback port that is free now, the preferred one if it is."""
    for port in (preferred or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Fault("no loopback port is free", hint="close connections or raise net.ipv4.ip_local_port_range")
