"""A database of Prefect's with empty tables, made once by `make setup` and copied into each new home.

Prefect makes its tables by all of its migrations in turn, which takes 7 s of CPU time on every fresh home. The copy is of the same
release; without one (or with a damaged one) Prefect migrates as ever.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Final

from core.settings import base_environ

_NAME: Final = "prefect.db"


def template() -> Path:
    """Return where this environment keeps the database of its release of Prefect."""
    return Path(sys.prefix) / "share" / "seatrial" / f"prefect-{version('prefect')}.db"


def make(target: Path | None = None) -> Path:
    """Make the template where it is missing or damaged, and return it. Raises CalledProcessError when Prefect's migration fails."""
    target = target or template()
    if whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as home:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        environ = {**base_environ(), "PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        with closing(sqlite3.connect(Path(home) / _NAME)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (Path(home) / _NAME).replace(target)
    return target


def provide(prefect_home: Path, source: Path | None = None) -> bool:
    """Copy the template into a home of Prefect that has no database yet; return whether it did."""
    source, target = source or template(), prefect_home / _NAME
    if target.exists() or not whole(source):
        return False
    prefect_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.chmod(0o600)
    part.replace(target)
    return True


def whole(file: Path) -> bool:
    """Whether the file is a sound SQLite database with the tables of Prefect."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            (checked,) = database.execute("PRAGMA quick_check(1)").fetchone()
            return bool(checked == "ok" and database.execute("SELECT version_num FROM alembic_version").fetchone())
    except sqlite3.Error:
        return False


if __name__ == "__main__":
    make()
