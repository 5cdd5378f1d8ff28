"""The routes that gateways follow, and whether they do."""

from __future__ import annotations

from typing import Protocol

from core.endpoints import Snapshot
from core.ids import Epoch


class Gateways(Protocol):
    """What gateways follow, and whether they do."""

    def snapshot(self) -> Snapshot:
        """Return the routes and the callers with live keys. Every address is None; the adapter of `Routes` fills the addresses in."""
        ...

    def generation(self) -> int:
        """Return the routes' generation; cheap."""
        ...

    def report(self, gateway: str, generation: int, now: Epoch) -> None:
        """Note which generation a gateway follows."""
        ...

    def lagging(self, generation: int, since: Epoch) -> tuple[str, ...]:
        """Return the gateways that reported after `since` but follow an older generation."""
        ...
