"""Leases of background services."""

from __future__ import annotations

from typing import Protocol

from core.ids import Epoch
from core.leases import Lease


class Leases(Protocol):
    """Background services of which one instance works at a time. Changes carry the token of the lease (`Lease.token`)."""

    def get(self, name: str) -> Lease | None:
        """Return the lease, None before anybody took or called it."""
        ...

    def take(self, name: str, holder: str, now: Epoch, until: Epoch) -> Lease | None:
        """Take a free lease, or renew one's own; None while another instance holds it. A new holder gets the next token."""
        ...

    def renew(self, lease: Lease, until: Epoch) -> Lease:
        """Extend it. Conflict when another instance took it."""
        ...

    def begin(self, lease: Lease, now: Epoch) -> Lease:
        """Write down that a pass begins. Conflict when another instance took the lease.

        A call of a time after `now` was written by a clock that was ahead. It counts as made now, so that this pass serves it.
        """
        ...

    def end(self, lease: Lease, now: Epoch, failed: str) -> Lease:
        """Write down how a pass ended; `failed` is empty after a good one. Conflict when another instance took the lease."""
        ...

    def release(self, lease: Lease) -> None:
        """Let another instance take it at once. Does nothing when another holds it already."""
        ...

    def call(self, name: str, now: Epoch) -> None:
        """Request a pass: the holder of the lease makes one soon. Calls in quick succession lead to one pass."""
        ...
