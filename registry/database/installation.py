"""The identity of the installation."""

from __future__ import annotations

from sqlalchemy import select

from registry.database.connection import Connections
from registry.database.tables import installation


class InstallationTable:
    """Implements `Installation`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def id(self) -> str:
        """Return the one row's value."""
        with self._connections.read() as connection:
            return str(connection.execute(select(installation.c.id)).scalar_one())
