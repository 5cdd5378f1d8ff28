"""What the control API looks at besides its own records when it is asked what is wrong."""

from __future__ import annotations

from typing import Protocol

from core.health import Disk, Service, Spool
from core.ids import Epoch


class Vitals(Protocol):
    """Quick looks at the platform's surroundings. No verb raises: what cannot be looked at is reported as its result."""

    def services(self) -> tuple[Service, ...]:
        """Ask every other service for its health, each for a few seconds at most."""
        ...

    def runner_seen(self) -> Epoch | None:
        """Return when a flow runner last asked Prefect for work; None when it never did or Prefect cannot be asked."""
        ...

    def disk(self) -> Disk | None:
        """Return the room of the home; None where there is none to look at."""
        ...

    def spool(self) -> Spool | None:
        """Return what waits in the gateway's spool; None where the gateway runs on another machine."""
        ...
