"""Engines as processes of this machine: desired states are files, which the engine supervisor (supervisor.py) reconciles."""

from __future__ import annotations

import re
from pathlib import Path

from core.engines import EngineCause, EnginePhase, EngineSpec, EngineState
from core.errors import Conflict, Refused
from core.ids import VersionId
from core.ports.clock import Clock
from serving.engines import files
from serving.engines.files import DesiredState, EngineFiles, EngineStatus, stopped
from serving.engines.processes import alive

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class LocalEngines:
    """The Engines port on a folder. Any number of processes may use one folder; exactly one engine supervisor works on it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def apply(self, spec: EngineSpec) -> None:
        """Write the desired state. See the port."""
        engine = self._files(spec.version)
        with engine.locked():
            desired = engine.desired()
            if desired is not None and desired.spec != spec:
                raise Conflict(f"engine {spec.version[:12]} runs from another spec", hint="stop it first")
            if desired is None or not desired.wanted or _failed(desired, engine.status()):
                engine.save_desired(DesiredState(spec=spec, attempt=self._next_attempt(engine, desired)))

    def state(self, version: VersionId) -> EngineState:
        """Combine the desired state with the status and with /proc. See the port."""
        engine = self._files(version)
        desired, status = engine.desired(), engine.status()
        if desired is None:
            return EngineState(version, EnginePhase.ABSENT)
        if not desired.wanted:
            return self._leaving(version, status)
        if status is None or status.attempt != desired.attempt:
            return EngineState(version, EnginePhase.STARTING, detail=self._waiting())
        if status.phase is EnginePhase.READY and not alive(status.process):
            return _state(version, status, EnginePhase.RESTARTING, "its process is gone")
        return _state(version, status, status.phase, status.detail)

    def list(self) -> tuple[EngineState, ...]:
        """Return the states of all. See the port."""
        states = (self.state(version) for version in files.versions(self._folder))
        return tuple(state for state in states if state.phase is not EnginePhase.ABSENT)

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """Write that it is no longer wanted; a second stop may only shorten the drain. See the port."""
        engine = self._files(version)
        if engine.desired() is None:
            return
        deadline = self._clock.now() + drain_s
        with engine.locked():
            desired = engine.desired()
            if desired is not None:
                engine.save_desired(stopped(desired, deadline if desired.wanted else min(deadline, desired.deadline)))

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """Return the log's end. See the port."""
        return self._files(version).tail(lines)

    def _files(self, version: VersionId) -> EngineFiles:
        if _VERSION.fullmatch(version) is None:
            raise Refused(f"{version!r} is not a version id", hint="give the 64 hexadecimal digits that `seatrial models` shows")
        return EngineFiles(self._folder / version)

    def _next_attempt(self, engine: EngineFiles, desired: DesiredState | None) -> int:
        status = engine.status()
        return max(desired.attempt if desired else 0, status.attempt if status else 0) + 1

    def _leaving(self, version: VersionId, status: EngineStatus | None) -> EngineState:
        """Return the state of an engine to be removed. Without an engine supervisor no cleanup runs: without a process it is absent."""
        if not alive(files.supervisor(self._folder)) and (status is None or not alive(status.process)):
            return EngineState(version, EnginePhase.ABSENT)
        return EngineState(version, EnginePhase.STOPPING, since=status.since if status else 0.0)

    def _waiting(self) -> str:
        return (
            "waits for its start"
            if alive(files.supervisor(self._folder))
            else "waits for the engine supervisor, which is not running; start it with `seatrial up`"
        )


def _failed(desired: DesiredState, status: EngineStatus | None) -> bool:
    return status is not None and status.attempt == desired.attempt and status.phase is EnginePhase.FAILED


def _cause(phase: EnginePhase, status: EngineStatus) -> EngineCause | None:
    """Return the cause; a status of an earlier release has none, even if the engine failed."""
    return EngineCause.UNKNOWN if phase is EnginePhase.FAILED and status.cause is None else status.cause


def _state(version: VersionId, status: EngineStatus, phase: EnginePhase, detail: str) -> EngineState:
    return EngineState(
        version=version,
        phase=phase,
        address=status.address if phase is EnginePhase.READY else None,
        detail=detail,
        cause=_cause(phase, status),
        restarts=status.restarts,
        since=status.since,
        load_seconds=status.load_seconds,
    )
