"""Leases: background services of which one instance works at a time, with a fencing token."""

from __future__ import annotations

from dataclasses import dataclass

from core.ids import Epoch

RECONCILE = "reconcile"
HOUSEKEEPING = "housekeeping"


@dataclass(frozen=True, slots=True)
class Lease:
    """The row of one service. `token` grows with every change of holder: a write that carries an older one is refused."""

    name: str
    holder: str
    token: int
    until: Epoch
    """The lease ends here unless it is renewed; 0 when it was released."""
    called_at: Epoch = 0.0
    """When somebody last asked for a pass."""
    began_at: Epoch = 0.0
    """When the last pass began; 0 before the first."""
    ended_at: Epoch = 0.0
    """When the last pass ended."""
    failed: str = ""
    """What failed in the last pass; empty after a good one."""
    failures: int = 0
    """Passes in a row that failed."""

    def free(self, now: Epoch) -> bool:
        """Return whether anybody may take it."""
        return self.until <= now
