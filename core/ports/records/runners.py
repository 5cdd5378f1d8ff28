"""Heartbeats of flow runners."""

from __future__ import annotations

from typing import Protocol

from core.services import RunnerBeat


class Runners(Protocol):
    """Heartbeats of flow runners."""

    def beat(self, beat: RunnerBeat) -> None:
        """Keep a heartbeat; the host's next one replaces it."""
        ...

    def latest(self) -> RunnerBeat | None:
        """Return the newest heartbeat of all hosts, None where no runner has ever left one."""
        ...
