"""The keeper: makes the engines of one folder be as wished, one pass at a time.

All it knows lies in the folder, so that a keeper that was killed is replaced by one that goes on where it stood: engines run in
sessions of their own, and the next keeper adopts them by pid and start time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
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
from serving.engines.files import EngineFiles, Record, Wish
from serving.engines.launcher import Launcher
from serving.engines.memory import bounds
from serving.engines.probe import HttpProbe, Probe
from serving.engines.processes import alive, identify
from serving.engines.standby import Standby

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient the keeper is; times in seconds."""

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
    """What answers in flight get when the keeper itself is stopped."""
    log_bytes: int = files.LOG_BYTES
    """Size at which an engine's log is cut."""


class Keeper:
    """Keeps the engines of `folder`. One keeper per folder: a second one raises Conflict."""

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        clock: Clock,
        *,
        limits: Limits | None = None,
        probe: Probe | None = None,
        standby: Standby | None = None,
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._clock = clock
        self._limits = limits or Limits()
        self._probe = probe or HttpProbe()
        self._standby = standby
        self._children: dict[int, Popen[bytes]] = {}
        self._codes: dict[int, int] = {}
        self._generations: dict[VersionId, tuple[int, Future[bool]]] = {}
        self._looked: dict[VersionId, float] = {}
        self._held = ExitStack()
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="keeper")

    def run(self, stop: threading.Event) -> None:
        """Keep until `stop` is set, then stop every engine gracefully; their wishes stay for the next keeper. Raises Conflict."""
        self.open()
        try:
            while not stop.is_set():
                self.step()
                stop.wait(self._limits.pause_s)
            self.shut_down()
        finally:
            self.close()

    def open(self) -> None:
        """Become the folder's keeper. Raises Conflict when another one is."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            other = files.keeper(self._folder)
            who = f"process {other.pid}" if other else "another process"
            raise Conflict(f"{who} keeps the engines of {self._folder} already", hint="stop it, or give another --home") from error
        me = identify(os.getpid())
        if me is not None:
            files.write(self._folder / "keeper.json", asdict(me))

    def close(self) -> None:
        """Stop being the keeper; engines run on."""
        if self._standby is not None:
            self._standby.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._held.close()

    def step(self) -> None:
        """Look at every engine once and do what is next. Never waits for an engine, but up to the health timeout for its answer."""
        self._reap()
        if self._standby is not None:
            self._standby.ensure()
        for done in [self._pool.submit(self._advance, version) for version in files.versions(self._folder)]:
            done.result()

    def shut_down(self) -> None:
        """Stop every engine, drained within the limit; wishes stay."""
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
            wish, record = engine.wish(), engine.record()
            if wish is None or not wish.wanted:
                self._dismiss(version, engine, wish)
            elif record is None or record.attempt != wish.attempt:
                self._begin(version, engine, wish, record)
            else:
                self._keep(version, engine, wish, record)
        except (Fault, OSError) as error:
            log.exception("engine.unkept", version=version, cause=str(error))

    def _keep(self, version: VersionId, engine: EngineFiles, wish: Wish, record: Record) -> None:
        engine.bound_log(self._limits.log_bytes)
        match record.phase:
            case EnginePhase.FAILED:
                return
            case EnginePhase.READY if alive(record.process):
                self._watch(version, engine, record)
            case EnginePhase.READY:
                self._crashed(engine, record, self._diagnose(engine, wish.spec, record))
            case _ if record.process is None:
                if self._clock.now() >= record.not_before:
                    self._launch(engine, wish, record)
            case _ if alive(record.process):
                self._await(version, engine, record)
            case _:
                self._start_failed(engine, record, self._diagnose(engine, wish.spec, record))

    def _begin(self, version: VersionId, engine: EngineFiles, wish: Wish, old: Record | None) -> None:
        """Start an attempt; whatever an earlier one (or a keeper that died between start and record) left goes first."""
        if old is not None and old.process is not None:
            deadline = old.not_before if old.asked_to_stop else self._clock.now() + self._limits.shutdown_drain_s
            if not self._stopped(version, deadline):
                return
        self._kill(engine, old)
        record = Record(wish.attempt, EnginePhase.STARTING, self._clock.now(), port=old.port if old else None, detail="starts")
        engine.save_record(record)
        self._launch(engine, wish, record)

    def _launch(self, engine: EngineFiles, wish: Wish, record: Record) -> None:
        if self._standby is not None and self._standby.warming():
            return  # a later pass finds it ready sooner than a cold start would be
        now = self._clock.now()
        port = _free_port(record.port)
        record = replace(record, port=port, launched=now, process=None, unhealthy_since=None)
        engine.save_record(record)
        engine.note(f"{START} {wish.spec.version} on port {port}")
        try:
            pid = self._start(engine, wish.spec, port)
        except (OSError, Refused) as error:
            why = Diagnosis(EngineCause.UNSTARTABLE, f"it cannot be started: {error}", permanent=isinstance(error, Refused))
            self._start_failed(engine, record, why)
            return
        engine.save_record(replace(record, process=identify(pid) or processes.ended(pid)))
        log.info("engine.started", version=wish.spec.version, pid=pid, port=port, restarts=record.restarts)

    def _start(self, engine: EngineFiles, spec: EngineSpec, port: int) -> int:
        """Start the process, forked from the standby where there is one, and return its pid. Raises OSError and Refused."""
        command, environ = self._launcher.command(spec, port), self._launcher.environ(spec)
        if self._standby is not None and self._standby.ready():
            warm = self._standby.fork(command[command.index("-m") + 2 :], engine.log, environ)
            if warm is not None:
                return warm
        child = processes.start(command, environ, log=engine.log, folder=engine.folder)
        self._children[child.pid] = child
        return child.pid

    def _await(self, version: VersionId, engine: EngineFiles, record: Record) -> None:
        """Record it as ready once it is healthy and has generated one token."""
        waited = self._clock.now() - record.launched
        if waited > self._limits.start_s:
            why = Diagnosis(EngineCause.START_TIMEOUT, f"it was not ready after {self._limits.start_s:.0f} s")
            self._start_failed(engine, record, why)
            return
        if not self._generated(version, record):
            return
        log.info("engine.ready", version=version, port=record.port, load_seconds=round(waited, 2))
        engine.save_record(
            replace(record, phase=EnginePhase.READY, since=self._clock.now(), detail="", cause=None, failed_starts=0, load_seconds=waited)
        )

    def _generated(self, version: VersionId, record: Record) -> bool:
        assert record.port is not None  # noqa: S101 - a record with a process has a port
        pid = record.process.pid if record.process else 0
        known = self._generations.get(version)
        if known is None or known[0] != pid:
            if self._probe.healthy(record.port):
                self._generations[version] = (pid, self._pool.submit(self._probe.generates, record.port, version))
            return False
        if not known[1].done():
            return False
        del self._generations[version]
        return known[1].result()

    def _watch(self, version: VersionId, engine: EngineFiles, record: Record) -> None:
        now = self._clock.now()
        if now - self._looked.get(version, 0.0) < self._limits.look_s or record.port is None:
            return
        self._looked[version] = now
        if self._probe.healthy(record.port):
            if record.unhealthy_since is not None:
                engine.save_record(replace(record, unhealthy_since=None))
        elif record.unhealthy_since is None:
            engine.save_record(replace(record, unhealthy_since=now))
        elif now - record.unhealthy_since >= self._limits.hang_s:
            why = Diagnosis(EngineCause.UNRESPONSIVE, f"it did not answer /health for {self._limits.hang_s:.0f} s")
            self._crashed(engine, record, why)

    def _diagnose(self, engine: EngineFiles, spec: EngineSpec, record: Record) -> Diagnosis:
        """Find out why a process ended, from its exit status and its log."""
        return diagnose(engine.tail(4000), self._ending(record), memory=bounds(spec.memory_bytes))

    def _ending(self, record: Record) -> Ending:
        """Return how an engine's server ended. Known by its parent only: this keeper or its standby, not a keeper that adopted it."""
        pid = record.process.pid if record.process else 0
        child = self._children.pop(pid, None)
        if child is not None:
            with contextlib.suppress(TimeoutExpired):
                self._codes[pid] = child.wait(timeout=1.0)
        code = self._codes.pop(pid, None)
        if code is None and self._standby is not None:
            code = self._standby.ended(pid)
        return Ending.of_returncode(code)

    def _crashed(self, engine: EngineFiles, record: Record, why: Diagnosis) -> None:
        """Restart one that was ready: at once the first time, then with growing pauses."""
        now = self._clock.now()
        crashes = 1 if now - record.since > self._limits.steady_s else record.crashes + 1
        pause = 0.0 if crashes == 1 else self._pause(crashes - 1)
        log.warning("engine.died", version=engine.folder.name, cause=why.cause, detail=why.text, pause_s=pause)
        next_record = replace(
            record,
            phase=EnginePhase.RESTARTING,
            since=now,
            detail=why.text,
            cause=why.cause,
            restarts=record.restarts + 1,
            crashes=crashes,
            not_before=now + pause,
        )
        engine.save_record(next_record)  # before the kill: the gateway must not be sent to it any more
        self._kill(engine, record)
        engine.save_record(replace(next_record, process=None))

    def _start_failed(self, engine: EngineFiles, record: Record, why: Diagnosis) -> None:
        self._kill(engine, record)
        failed = record.failed_starts + 1
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
        engine.save_record(
            replace(
                record,
                phase=EnginePhase.FAILED if given_up else record.phase,
                since=now if given_up else record.since,
                process=None,
                detail=why.text if given_up else f"start {failed} failed, the next one comes in {pause:.0f} s: {why.text}",
                cause=why.cause,
                failed_starts=failed,
                restarts=record.restarts + (0 if given_up else 1),
                not_before=now + pause,
            )
        )

    def _pause(self, count: int) -> float:
        return float(min(self._limits.longest_pause_s, 2.0 ** min(count - 1, 16)))

    def _dismiss(self, version: VersionId, engine: EngineFiles, wish: Wish | None) -> None:
        if self._stopped(version, wish.deadline if wish else 0.0):
            engine.forget_unwanted()
            log.info("engine.stopped", version=version)

    def _stopped(self, version: VersionId, deadline: float) -> bool:
        """Bring a stop one step on: SIGTERM once, then time until `deadline`, then SIGKILL for all. True when nothing is left."""
        engine = EngineFiles(self._folder / version)
        record = engine.record()
        if record is not None and record.phase is EnginePhase.FAILED and record.process is None:
            return True  # keeps its record, which says why, until somebody stops or applies it
        if record is not None and alive(record.process) and self._clock.now() < deadline:
            self._ask_to_stop(engine, record, deadline)
            return False
        self._kill(engine, record)
        engine.drop_record()
        return True

    def _ask_to_stop(self, engine: EngineFiles, record: Record, deadline: float) -> None:
        if record.process is not None and not record.asked_to_stop:
            engine.save_record(
                replace(record, phase=EnginePhase.STOPPING, since=self._clock.now(), asked_to_stop=True, not_before=deadline)
            )
            processes.send(record.process, SIGTERM)

    def _kill(self, engine: EngineFiles, record: Record | None) -> None:
        """End every process of the engine, now. The kernel needs a moment for each; wait for it, so that a port is free again."""
        leader = record.process if record else None
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
            if self._standby is not None:
                self._standby.forget(leader.pid)

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
