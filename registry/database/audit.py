"""The trail that only grows."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from core.ports.records import AuditEntry
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.tables import audit


class AuditTable:
    """Implements `Audit`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def add(self, entry: AuditEntry) -> None:
        """Append."""
        with self._connections.write() as connection:
            append(connection, entry)

    def find(self, *, subject: str | None = None, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Return entries, newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(audit.c.subject == subject)
        with self._connections.read() as connection:
            return tuple(restore(AuditEntry, row) for row in connection.execute(query).mappings())


def append(connection: Connection, entry: AuditEntry) -> None:
    """Append an entry within a transaction."""
    connection.execute(insert(audit).values(**plain(entry)))
