"""Leases of background services, changed by compare-and-set on the fencing token."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, case, select, update

from core.errors import Conflict
from core.ids import Epoch
from core.leases import Lease
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.tables import leases
from registry.database.upsert import insert_new


class LeasesTable:
    """Implements `Leases`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def get(self, name: str) -> Lease | None:
        """Return the lease, None before anybody took or called it."""
        with self._connections.read() as connection:
            return _find(connection, name)

    def take(self, name: str, holder: str, now: Epoch, until: Epoch) -> Lease | None:
        """Take a free lease, or renew one's own; None while another instance holds it."""
        with self._connections.write() as connection:
            insert_new(connection, leases, [plain(Lease(name, "", 0, 0.0))])
            mine = (leases.c.holder == holder) & (leases.c.until > now)
            renewed = update(leases).where(leases.c.name == name, mine).values(until=until)
            if connection.execute(renewed).rowcount:
                return _find(connection, name)
            taken = update(leases).where(leases.c.name == name, leases.c.until <= now)
            if not connection.execute(taken.values(holder=holder, token=leases.c.token + 1, until=until)).rowcount:
                return None
            return _find(connection, name)

    def renew(self, lease: Lease, until: Epoch) -> Lease:
        """Extend it. Conflict when another instance took it."""
        return self._change(lease, until=until)

    def begin(self, lease: Lease, now: Epoch) -> Lease:
        """Write down that a pass begins; it serves every call until now, also one of a clock that was ahead."""
        called = leases.c.called_at
        return self._change(lease, began_at=now, called_at=case((called > now, now), else_=called))

    def end(self, lease: Lease, now: Epoch, failed: str) -> Lease:
        """Write down how a pass ended. Conflict when another instance took the lease."""
        failures = leases.c.failures + 1 if failed else 0
        return self._change(lease, ended_at=now, failed=failed, failures=failures)

    def release(self, lease: Lease) -> None:
        """Let another instance take it at once. Does nothing when another holds it already."""
        held = (leases.c.name == lease.name) & (leases.c.token == lease.token)
        with self._connections.write() as connection:
            connection.execute(update(leases).where(held).values(until=0.0))

    def call(self, name: str, now: Epoch) -> None:
        """Request a pass: the holder of the lease makes one soon."""
        with self._connections.write() as connection:
            insert_new(connection, leases, [plain(Lease(name, "", 0, 0.0))])
            later = (leases.c.name == name) & (leases.c.called_at < now)
            connection.execute(update(leases).where(later).values(called_at=now))

    def _change(self, lease: Lease, **values: Any) -> Lease:
        held = (leases.c.name == lease.name) & (leases.c.token == lease.token)
        with self._connections.write() as connection:
            changed = connection.execute(update(leases).where(held).values(**values)).rowcount
            found = _find(connection, lease.name)
        if not changed or found is None:
            what = f"was taken by {found.holder}" if found else "does not exist"
            raise Conflict(f"the lease {lease.name} {what}", hint="stop this pass; the other instance makes one")
        return found


def _find(connection: Connection, name: str) -> Lease | None:
    row = connection.execute(select(leases).where(leases.c.name == name)).mappings().one_or_none()
    return restore(Lease, row) if row else None
