"""Connections: the engine for one URL, reading and writing transactions, and what each database needs for both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from core.errors import Fault, Refused, Transient
from core.reasons import Reason
from registry.database.errors import translated

BUSY_TIMEOUT_S = 20.0
"""How long a writer waits for other writers before it is told Transient."""
STATEMENT_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5
_MODE = "seatrial_mode"


class Connections:
    """Short transactions on one database. Thread-safe; a fork must open its own.

    SQLite takes one writer at a time: writers of this process queue at a lock here (the database's own waiting is unfair and
    polls), those of other processes at `BEGIN IMMEDIATE` with a busy timeout. Readers never wait (WAL).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        self._turn = threading.Lock()
        readers: dict[str, Any] = {_MODE: "DEFERRED"} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
        self._readers = engine.execution_options(**readers)
        self._writers = engine.execution_options(**{_MODE: "IMMEDIATE"})
        self._durable = engine.execution_options(**{_MODE: "IMMEDIATE DURABLE"})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a transaction in which all statements see the same moment."""
        with translated(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """Give a transaction that is committed at its end, or rolled back by an error. `durable` outlives a power cut on SQLite too."""
        if not self._sqlite:
            with translated(), self._writers.begin() as connection:
                yield connection
            return
        if not self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            raise Transient("the database is busy: other writers of this process did not finish", hint="it is tried again")
        try:
            with translated(), (self._durable if durable else self._writers).begin() as connection:
                yield connection
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def make_engine(url: str) -> Engine:
    """Return the engine for an SQLAlchemy URL of SQLite (a file) or PostgreSQL. Connects to nothing. Raises Refused."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=5, max_overflow=20)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    limits = f"-c statement_timeout={STATEMENT_TIMEOUT_S:.0f}s -c lock_timeout={BUSY_TIMEOUT_S:.0f}s"
    arguments: dict[str, Any] = {"options": f"{limits} -c idle_in_transaction_session_timeout=60s", "application_name": "seatrial"}
    if "connect_timeout" not in parsed.query:
        arguments["connect_timeout"] = CONNECT_TIMEOUT_S
    return create_engine(parsed, hide_parameters=True, pool_pre_ping=True, pool_size=5, max_overflow=10, connect_args=arguments)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Refused(
            "the database URL cannot be read", reason=Reason.BAD_SETTING, hint="write sqlite:////file or postgresql://..."
        ) from error
    if parsed.drivername in {"postgres", "postgresql"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return parsed
    shown = parsed.render_as_string(hide_password=True)
    raise Refused(f"{shown} names no database that we know", reason=Reason.BAD_SETTING, hint="write sqlite:////file or postgresql://...")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own comes too late to keep two writers apart
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise Fault(f"SQLite cannot keep a write-ahead log here (it says {mode!r})", hint="put the database on a local disk")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_MODE, "DEFERRED")
    verb, _, durable = mode.partition(" ")
    if verb == "IMMEDIATE":
        connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.exec_driver_sql(f"BEGIN {verb}")
