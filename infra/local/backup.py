"""`seatrial backup` and `seatrial restore`: the state of one home, copied while it runs, and brought back under any path.

Copied in an order in which no record falls between two parts: the spool before the database that it is shipped to (what is in both is
entered once), rows before the weights and files that they name.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from core.errors import Conflict, Fault, Refused
from core.ids import Epoch
from core.settings import Settings
from registry.files import disk_errors, require_room

MARK = "backup.json"
_FORMAT = 1
_FOLDERS_FIRST = ("spool",)
_DATABASES = ("seatrial.db", "mlflow.db", "prefect/prefect.db")
_FOLDERS = ("weights/bundles", "benchmarks", "mlflow-artifacts")
_FILES = ("seatrial.toml", "operator.key")
_SECRET = 0o600


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: when it was made, from which home, its size, and the parts that lie elsewhere."""

    format: int
    made_at: Epoch
    home: str
    bytes: int
    elsewhere: tuple[str, ...] = ()


def back_up(settings: Settings, target: Path, now: Epoch) -> Backup:
    """Copy the home's state into `target`, a folder that does not exist yet. The stack may run. Errors: Refused, Conflict, Fault."""
    home = settings.home
    if not home.is_dir():
        raise Refused(f"there is no home at {home}", reason="no_home", hint="give the state directory with --home")
    if target.exists():
        raise Conflict(f"{target} exists", hint="give a folder that does not exist yet")
    if target.absolute().is_relative_to(home):
        raise Refused(f"{target} is inside the home", reason="bad_target", hint="give a folder outside of it, best on another disk")
    draft = target.with_name(f".{target.name}.partial")
    with disk_errors(f"writing the backup {target}"):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        require_room(draft, sum(_size(home / name) for name in (*_FOLDERS_FIRST, *_DATABASES, *_FOLDERS)), "the backup")
        for name in _FOLDERS_FIRST:
            _copy_folder(home / name, draft / name)
        for name in _DATABASES:
            _copy_database(home / name, draft / name)
        for name in _FOLDERS:
            _copy_folder(home / name, draft / name)
        _copy_desired_states(home, draft)
        for name in _FILES:
            _copy_secret(home / name, draft / name)
        made = Backup(_FORMAT, now, str(home), _size(draft), tuple(_elsewhere(settings)))
        (draft / MARK).write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
        draft.replace(target)
    return made


def restore(source: Path, home: Path) -> Backup:
    """Bring a backup back as `home`, a folder that is empty or does not exist. Errors: Refused, Conflict, Fault.

    The home appears whole or not at all, unless it is a mount point, which cannot be replaced.
    """
    made = read_mark(source)
    if home.exists() and any(home.iterdir()):
        raise Conflict(f"{home} is not empty", hint="move it away first, or restore under another --home")
    draft = home if home.is_mount() else home.with_name(f".{home.name}.restoring")
    with disk_errors(f"restoring into {home}"):
        if draft != home:
            shutil.rmtree(draft, ignore_errors=True)  # of a restore that was killed
        draft.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.chmod(0o700)
        require_room(draft, made.bytes, "the restored home")
        _copy_folder(source, draft)
        (draft / MARK).unlink()
        _give_identity(draft / "seatrial.db")
        if draft != home:
            draft.replace(home)
    return made


def read_mark(source: Path) -> Backup:
    """Return what a backup says of itself. Refused where the folder is not a whole backup, or is one of another format."""
    try:
        document = json.loads((source / MARK).read_text(encoding="utf-8"))
        made = Backup(**{**document, "elsewhere": tuple(document["elsewhere"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Refused(
            f"{source} is not a backup: {MARK} cannot be read", reason="no_backup", hint="give a folder that `seatrial backup` wrote"
        ) from error
    if made.format != _FORMAT:
        raise Refused(f"{source} has format {made.format}, expected {_FORMAT}", reason="no_backup", hint="use the release that made it")
    return made


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, beside its writers, by SQLite's own backup."""
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET))
    try:
        with closing(sqlite3.connect(source, timeout=60)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)  # at once, from one snapshot: copied in parts it begins again at each write of another
            copy.execute("PRAGMA journal_mode = DELETE")  # one file
    except sqlite3.Error as error:
        raise Fault(f"{source} cannot be copied: {error}", hint="see that the disk is well; `seatrial down` and try again") from error


def _copy_folder(source: Path, target: Path) -> None:
    """Copy files with their times, by which the weights store detects changes. Files that vanish during the copy are left out.

    A folder that cannot be read raises its OSError.
    """
    for folder, _folders, names in os.walk(source, onerror=_unless_gone):
        into = target / Path(folder).relative_to(source)
        into.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in names:
            try:
                shutil.copy2(Path(folder) / name, into / name)
            except FileNotFoundError:
                continue


def _give_identity(database: Path) -> None:
    """Make the copy an installation of its own: the original may still run, and share a weights store with it."""
    if database.is_file():
        with closing(sqlite3.connect(database)) as copy, copy:
            if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'installation'").fetchone():
                copy.execute("UPDATE installation SET id = ?", (uuid4().hex,))


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _copy_desired_states(home: Path, draft: Path) -> None:
    """Copy the desired states of the engines, not their status: its processes and ports belong to this machine."""
    for desired in sorted((home / "engines").glob("*/wish.json")):
        _copy_secret(desired, draft / desired.relative_to(home))


def _copy_secret(source: Path, target: Path) -> None:
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET)
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.read_bytes())


def _elsewhere(settings: Settings) -> Iterator[str]:
    """Yield the parts of the state that this home does not hold: their own backups are needed too."""
    if settings.database_url != f"sqlite:///{settings.home / 'seatrial.db'}":
        yield "the database (SEATRIAL_DATABASE_URL)"
    weights = urlsplit(settings.weights_url)
    if weights.scheme != "file" or Path(unquote(weights.path)) != settings.home / "weights":
        yield "the weights (SEATRIAL_WEIGHTS_URL)"
    if not (settings.home / "mlflow.db").is_file():
        yield "MLflow (SEATRIAL_MLFLOW_URL)"
    if not (settings.home / "prefect/prefect.db").is_file():
        yield "Prefect (SEATRIAL_PREFECT_API_URL)"


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
