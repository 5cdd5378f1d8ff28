"""What a long-running process reports of itself."""

from __future__ import annotations

from dataclasses import dataclass

from core.ids import Epoch

RUNNER_BEAT_S = 2.0
"""Time between two heartbeats of a flow runner."""
RUNNER_LOST_S = 15.0
"""A flow runner without a heartbeat for this long is down, or cannot reach the database."""


@dataclass(frozen=True, slots=True)
class RunnerBeat:
    """A flow runner's last heartbeat. `full`: each of its `slots` is taken by a run."""

    host: str
    pid: int
    started: Epoch
    at: Epoch
    slots: int
    full: bool

    def lost(self, now: Epoch) -> bool:
        """Whether the heartbeat is overdue."""
        return now - self.at > RUNNER_LOST_S
