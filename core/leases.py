"""Leases: background services of which one instance works at a time, with a fencing token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.ids import Epoch

RECONCILE = "reconcile"
HOUSEKEEPING = "housekeeping"
LONGEST_S = 600.0
"""The longest lease of a service; its holder renews it before it has run out."""


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


class LeaseWatch:
    """Finds the leases of dead holders that end too late: a clock was ahead when they were written, or was set back since.

    The remaining time of such a lease does not show whether its holder lives, but renewals do: a living holder changes the end at least
    once in `length_s`. The watch measures that with this process's monotonic clock, so that no wrong wall clock, here or elsewhere, costs
    a living holder its lease.
    """

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._since: dict[tuple[str, Epoch], float] = {}

    def stale(self, ends: Mapping[str, Epoch], now: Epoch, monotonic: float) -> frozenset[str]:
        """Return the leases that end more than `length_s` from now and have kept the same end for `length_s`.

        `ends` has the ends of all leases by name. Call it again and again: the first call can find none.
        """
        late = {(name, end) for name, end in ends.items() if end > now + self._length_s}
        self._since = {lease: self._since.get(lease, monotonic) for lease in late}
        return frozenset(name for (name, _end), since in self._since.items() if monotonic - since >= self._length_s)
