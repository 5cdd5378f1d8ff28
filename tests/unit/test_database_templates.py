"""The copies of empty databases for a new home."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from infra.local.database_templates import MLFLOW, PREFECT, Template, whole


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.db"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('a1')")
    return file


def test_a_new_home_gets_a_private_copy(source: Path, tmp_path: Path) -> None:
    assert PREFECT.provide(tmp_path / "prefect", source)
    copy = tmp_path / "prefect" / "prefect.db"
    assert whole(copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [entry.name for entry in copy.parent.iterdir()] == ["prefect.db"]


def test_a_database_that_is_there_is_kept(source: Path, tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"mine")
    assert not PREFECT.provide(tmp_path, source)
    assert (tmp_path / "prefect.db").read_bytes() == b"mine"


@pytest.mark.parametrize("damage", [b"", b"no database", None])
def test_a_template_that_is_damaged_or_missing_is_not_used(source: Path, tmp_path: Path, damage: bytes | None) -> None:
    source.unlink()
    if damage is not None:
        source.write_bytes(damage)
    assert not PREFECT.provide(tmp_path / "prefect", source)
    assert not (tmp_path / "prefect" / "prefect.db").exists()


def test_a_template_that_was_cut_off_is_not_whole(source: Path) -> None:
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    assert not whole(source)


@pytest.mark.slow
@pytest.mark.parametrize(("template", "table"), [(PREFECT, "flow_run"), (MLFLOW, "experiments")], ids=["prefect", "mlflow"])
def test_a_template_is_at_the_head_of_the_migrations_and_holds_nothing(tmp_path: Path, template: Template, table: str) -> None:
    made = template.make(tmp_path / "fresh.db")
    assert whole(made)
    with closing(sqlite3.connect(made)) as fresh, closing(sqlite3.connect(template.path())) as installed:
        (head,) = fresh.execute("SELECT version_num FROM alembic_version").fetchone()
        assert installed.execute("SELECT version_num FROM alembic_version").fetchone() == (head,)
        assert fresh.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
