"""Heartbeats of flow runners."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select

from core.services import RunnerBeat
from registry.codec import restore
from registry.database.connection import Connections
from registry.database.tables import runners
from registry.database.upsert import replacing, upsert


class RunnersTable:
    """Implements `Runners`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def beat(self, beat: RunnerBeat) -> None:
        """Replace the host's heartbeat."""
        with self._connections.write() as connection:
            upsert(connection, runners, [asdict(beat)], replacing(runners))

    def latest(self) -> RunnerBeat | None:
        """Return the newest heartbeat of all hosts."""
        with self._connections.read() as connection:
            row = connection.execute(select(runners).order_by(runners.c.at.desc()).limit(1)).mappings().first()
        return None if row is None else restore(RunnerBeat, row)
