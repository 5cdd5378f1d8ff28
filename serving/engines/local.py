"""Engines as processes of this machine: wishes go into files, a keeper (keeper.py) fulfils them."""

from __future__ import annotations

import re
from pathlib import Path

from core.engines import EngineCause, EnginePhase, EngineSpec, EngineState
from core.errors import Conflict, Refused
from core.ids import VersionId
from core.ports.clock import Clock
from serving.engines import files
from serving.engines.files import EngineFiles, Record, Wish, stopped_wish
from serving.engines.processes import alive

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class LocalEngines:
    """The Engines port on a folder. Any number of processes may use one folder; exactly one keeper works on it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def apply(self, spec: EngineSpec) -> None:
        """Write the wish. See the port."""
        engine = self._files(spec.version)
        with engine.locked():
            wish = engine.wish()
            if wish is not None and wish.spec != spec:
                raise Conflict(f"engine {spec.version[:12]} runs from another spec", hint="stop it first")
            if wish is None or not wish.wanted or _failed(wish, engine.record()):
                engine.save_wish(Wish(spec=spec, attempt=self._next_attempt(engine, wish)))

    def state(self, version: VersionId) -> EngineState:
        """Combine the wish with the keeper's record and with what /proc says. See the port."""
        engine = self._files(version)
        wish, record = engine.wish(), engine.record()
        if wish is None:
            return EngineState(version, EnginePhase.ABSENT)
        if not wish.wanted:
            return self._leaving(version, record)
        if record is None or record.attempt != wish.attempt:
            return EngineState(version, EnginePhase.STARTING, detail=self._waiting())
        if record.phase is EnginePhase.READY and not alive(record.process):
            return _state(version, record, EnginePhase.RESTARTING, "its process is gone")
        return _state(version, record, record.phase, record.detail)

    def list(self) -> tuple[EngineState, ...]:
        """Return the states of all. See the port."""
        states = (self.state(version) for version in files.versions(self._folder))
        return tuple(state for state in states if state.phase is not EnginePhase.ABSENT)

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """Write that it is no longer wanted; a second stop may only shorten the drain. See the port."""
        engine = self._files(version)
        if engine.wish() is None:
            return
        deadline = self._clock.now() + drain_s
        with engine.locked():
            wish = engine.wish()
            if wish is not None:
                engine.save_wish(stopped_wish(wish, deadline if wish.wanted else min(deadline, wish.deadline)))

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """Return the log's end. See the port."""
        return self._files(version).tail(lines)

    def _files(self, version: VersionId) -> EngineFiles:
        if _VERSION.fullmatch(version) is None:
            raise Refused(f"{version!r} is not a version id", hint="give the 64 hexadecimal digits that `seatrial models` shows")
        return EngineFiles(self._folder / version)

    def _next_attempt(self, engine: EngineFiles, wish: Wish | None) -> int:
        record = engine.record()
        return max(wish.attempt if wish else 0, record.attempt if record else 0) + 1

    def _leaving(self, version: VersionId, record: Record | None) -> EngineState:
        """Return the state of an engine to be removed. Without a keeper no cleanup runs: without a process it is absent."""
        if not alive(files.keeper(self._folder)) and (record is None or not alive(record.process)):
            return EngineState(version, EnginePhase.ABSENT)
        return EngineState(version, EnginePhase.STOPPING, since=record.since if record else 0.0)

    def _waiting(self) -> str:
        return (
            "waits for its start"
            if alive(files.keeper(self._folder))
            else "waits for the keeper, which does not run; start it with `seatrial up`"
        )


def _failed(wish: Wish, record: Record | None) -> bool:
    return record is not None and record.attempt == wish.attempt and record.phase is EnginePhase.FAILED


def _cause(phase: EnginePhase, record: Record) -> EngineCause | None:
    """Return the recorded cause; a record of an earlier release has none, also where it failed."""
    return EngineCause.UNKNOWN if phase is EnginePhase.FAILED and record.cause is None else record.cause


def _state(version: VersionId, record: Record, phase: EnginePhase, detail: str) -> EngineState:
    return EngineState(
        version=version,
        phase=phase,
        address=record.address if phase is EnginePhase.READY else None,
        detail=detail,
        cause=_cause(phase, record),
        restarts=record.restarts,
        since=record.since,
        load_seconds=record.load_seconds,
    )
