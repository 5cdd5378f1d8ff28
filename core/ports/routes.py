"""What a gateway follows."""

from __future__ import annotations

from typing import Protocol

from core.endpoints import Snapshot


class Routes(Protocol):
    """The routes and callers as one immutable snapshot. Adapters: from the database (polled), and a fixed one for tests.

    Blocking calls: a gateway runs them on a separate thread. Errors: Transient while the database is unavailable; the gateway
    then keeps its present snapshot.
    """

    def load(self, seen: int | None) -> Snapshot | None:
        """Return the snapshot, or None when its generation is `seen` already and every address is as it was."""
        ...

    def report(self, gateway: str, generation: int) -> None:
        """Tell that `gateway` now follows `generation`. A driver waits for this before it calls a share verified."""
        ...
