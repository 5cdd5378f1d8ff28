"""`INSERT ... ON CONFLICT`, which SQLite and PostgreSQL spell alike and SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

Row = Mapping[str, Any]
Changes = Callable[[Any], Mapping[str, Any]]
"""From the excluded (proposed) row to what is set on the row that is there."""
Condition = Callable[[Any], ColumnElement[bool]]


def upsert(connection: Connection, table: Table, rows: Sequence[Row], changes: Changes, *, where: Condition | None = None) -> None:
    """Insert `rows`; where the primary key is taken set `changes(excluded)`, if `where(excluded)` holds. No key twice in `rows`."""
    if not rows:
        return
    statement = _insert(connection)(table)
    keys = [column.name for column in table.primary_key]
    condition = where(statement.excluded) if where else None
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes(statement.excluded), where=condition), rows)


def insert_new(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert those of `rows` that break no unique constraint; the others are left out without an error."""
    if rows:
        connection.execute(_insert(connection)(table).on_conflict_do_nothing(), rows)


def replacing(table: Table) -> Changes:
    """Return changes that replace every column but the key."""
    names = [column.name for column in table.columns if not column.primary_key]
    return lambda excluded: {name: excluded[name] for name in names}


def _insert(connection: Connection) -> Any:
    return sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
