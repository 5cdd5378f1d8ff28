"""Bringing a database's tables to what this code expects."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text

from core.errors import Fault
from registry.database.connection import Connections, make_engine

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_305_820_173
"""Key of PostgreSQL's advisory lock: any number of ours, the same in every release."""


def migrate(url: str) -> None:
    """Run every migration that this database lacks, all in one transaction. Running it again changes nothing.

    Several processes may run it at once: on SQLite writers wait for one another, on PostgreSQL an advisory lock is held.
    Errors: Refused (the URL), Transient (the database is unavailable), Fault (a later release created the database).
    """
    with closing(Connections(make_engine(url))) as connections, connections.write(durable=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Fault(f"the database cannot be migrated: {error}", hint="use the release that made it, or a later one") from error
