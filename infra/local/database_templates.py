"""SQLite databases of Prefect and MLflow with empty tables, made once by `make setup` and copied into each new home.

Both servers make their tables by all of their migrations in turn, which takes 7 s (Prefect) and 4 s (MLflow) of CPU time on every new
home. SQLite does not undo a migration that is interrupted: a server that was killed during its first start never starts again ("table
registered_models already exists"). A copy is whole or absent. It is of the same release; without a template (or with a damaged one) the
servers migrate as ever.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from core.settings import base_environ


@dataclass(frozen=True, slots=True)
class Template:
    """The empty database of a package, the name of its file in a home, and the command that makes it there."""

    package: str
    name: str
    command: Callable[[Path], tuple[list[str], dict[str, str]]]
    """Returns the arguments for Python, and the environment, that make the database in a folder."""

    def path(self) -> Path:
        """Return where this environment keeps the template of its release."""
        return Path(sys.prefix) / "share" / "seatrial" / f"{self.package}-{version(self.package)}.db"

    def make(self, target: Path | None = None) -> Path:
        """Make the template where it is missing or damaged, and return it. Raises CalledProcessError when the migration fails."""
        target = target or self.path()
        if whole(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / self.name
            arguments, environ = self.command(Path(folder))
            subprocess.run([sys.executable, *arguments], env={**base_environ(), **environ}, check=True, stdout=subprocess.DEVNULL)
            with closing(sqlite3.connect(made)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            made.replace(target)
        return target

    def provide(self, folder: Path, source: Path | None = None) -> bool:
        """Copy the template into a folder that has no such database yet; return whether it did."""
        source, target = source or self.path(), folder / self.name
        if target.exists() or not whole(source):
            return False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_suffix(".part")
        shutil.copyfile(source, part)
        part.chmod(0o600)
        part.replace(target)
        return True


def _prefect(folder: Path) -> tuple[list[str], dict[str, str]]:
    environ = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return ["-m", "prefect", "server", "database", "upgrade", "-y"], environ


def _mlflow(folder: Path) -> tuple[list[str], dict[str, str]]:
    return ["-m", "mlflow", "db", "upgrade", f"sqlite:///{folder / 'mlflow.db'}"], {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


PREFECT: Final = Template("prefect", "prefect.db", _prefect)
MLFLOW: Final = Template("mlflow", "mlflow.db", _mlflow)


def whole(file: Path) -> bool:
    """Whether the file is a sound SQLite database that has been migrated."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            (checked,) = database.execute("PRAGMA quick_check(1)").fetchone()
            return bool(checked == "ok" and database.execute("SELECT version_num FROM alembic_version").fetchone())
    except sqlite3.Error:
        return False


if __name__ == "__main__":
    for _template in (PREFECT, MLFLOW):
        _template.make()
