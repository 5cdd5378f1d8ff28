"""Inside registry/database: migrations agree with the tables, errors become ours, URLs are checked, much data stays quick."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import exc

from core.errors import Conflict, Fault, Refused, SeatrialError, Transient
from registry.database import Database, migrate, open_database
from registry.database.connection import make_engine
from registry.database.errors import translated
from registry.database.tables import metadata
from tests.equipment.samples import CANDIDATE, CHAT, NOW, a_completion, a_rollout, an_assignment

WINDOW_S = 120.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    migrate(url)
    return url


@pytest.fixture
def records(url: str) -> Iterator[Database]:
    with open_database(url) as database:
        yield database


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(url: str) -> None:
    with make_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_changes_nothing(url: str, records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    migrate(url)
    assert records.gateways.generation() == 2


def test_a_database_without_tables_is_a_fault_that_names_the_migration(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'empty.db'}") as empty, pytest.raises(Fault, match="migrate"):
        empty.gateways.generation()


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://h/d"])
def test_a_url_that_names_no_database_of_ours_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        open_database(url)


def test_a_refused_url_is_shown_without_its_password() -> None:
    with pytest.raises(Refused) as caught:
        open_database("mysql://me:hunter2@host/d")
    assert "hunter2" not in str(caught.value)


def locked() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (exc.IntegrityError("insert", {}, sqlite3.IntegrityError("UNIQUE")), Conflict),
        (exc.OperationalError("select", {}, locked()), Transient),
        (exc.OperationalError("select", {}, sqlite3.OperationalError("no such table")), Fault),
        (exc.DataError("insert", {}, sqlite3.DataError("too big")), Refused),
        (exc.TimeoutError("pool"), Transient),
        (exc.NoSuchTableError("x"), Fault),
        (OverflowError("int too large"), Refused),
    ],
)
def test_every_error_of_the_library_becomes_one_of_ours(raised: Exception, expected: type[SeatrialError]) -> None:
    with pytest.raises(expected) as caught, translated():
        raise raised
    assert caught.value.__cause__ is raised


def test_a_message_quotes_no_more_than_the_driver_s_first_line() -> None:
    error = sqlite3.IntegrityError("duplicate key\nDETAIL: Key (secret_sha256)=(abc)")
    with pytest.raises(Conflict) as caught, translated():
        raise exc.IntegrityError("insert", {}, error)
    assert "abc" not in str(caught.value)


def test_a_reader_does_not_wait_for_a_writer(records: Database) -> None:
    reading = threading.Event()

    def read() -> None:
        records.gateways.generation()
        reading.set()

    with records._connections.write():
        threading.Thread(target=read, daemon=True).start()
        assert reading.wait(10)


@pytest.mark.slow
def test_cohorts_of_a_hundred_thousand_conversations_take_seconds_at_most(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)
    rollout = records.rollouts.open(a_rollout())
    for first in range(0, 100_000, 10_000):
        numbers = range(first, first + 10_000)
        sides = {n: {"version": CANDIDATE} if n % 2 else {} for n in numbers}
        assigned = [an_assignment(f"c{n}", candidate=bool(n % 2), assigned_at=NOW + n, **sides[n]) for n in numbers]
        records.conversations.record(assigned, [a_completion(n, f"c{n}", **sides[n]) for n in numbers], [])
    started = time.process_time()
    cohorts = records.rollouts.cohorts(rollout.id, WINDOW_S)
    assert time.process_time() - started < 30
    assert (cohorts.stable.conversations, cohorts.candidate.conversations, len(cohorts.outcomes)) == (50_000, 50_000, 100_000)
