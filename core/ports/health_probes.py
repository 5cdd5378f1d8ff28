"""Probes of the platform's services and disks, for the list of its problems."""

from __future__ import annotations

from typing import Protocol

from core.health import Disk, Service, Spool
from core.ids import Epoch


class HealthProbes(Protocol):
    """Short probes outside the records. No verb raises: a failed probe is a result. Adapter: HTTP and the files of this machine."""

    def services(self) -> tuple[Service, ...]:
        """Return the health of every other service, each probed for a few seconds at most."""
        ...

    def runner_seen(self) -> Epoch | None:
        """Return when a flow runner last asked Prefect for work; None if it never has, or if Prefect is unavailable."""
        ...

    def disk(self) -> Disk | None:
        """Return the free space of the home; None for a platform without a home."""
        ...

    def spool(self) -> Spool | None:
        """Return the size and age of the gateway's spool; None where the gateway runs on another machine."""
        ...
