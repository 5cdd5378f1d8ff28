"""The routes' generation: one number that grows in the same transaction as whatever gateways follow."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from registry.database.tables import routes


def bump(connection: Connection) -> None:
    """Grow the generation. Comes last in a transaction: its row is the one that all writers of routes share."""
    connection.execute(update(routes).values(generation=routes.c.generation + 1))


def current(connection: Connection) -> int:
    """Return the generation."""
    return int(connection.execute(select(routes.c.generation)).scalar_one())
