"""`seatrial backup` and `seatrial restore`: the state of one home, copied while it runs, and brought back under any path.

Copied in an order in which no record falls between two parts: the spool before the database that it is shipped to (what is in both is
entered once), rows before the weights and files that they name.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from core.errors import Conflict, Fault, Refused
from core.ids import Epoch
from core.reasons import Reason
from core.settings import Settings
from infra.local import privacy
from registry.files import disk_errors, require_room
from serving.engines import files

MARK = "backup.json"
_FORMAT = 1
_FOLDERS_FIRST = ("spool",)
_DATABASES = ("seatrial.db", "mlflow.db", "prefect/prefect.db")
_FOLDERS = ("weights/bundles", "benchmarks", "mlflow-artifacts")
_FILES = ("seatrial.toml", "operator.key")
_SECRET = 0o600
_BUSY_S = 60.0
_LATEST_S = 1e12
_NO_HOME = "give the state directory of a stack with --home, or create one with `seatrial up`"


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
    _check_home(settings)
    _check_target(target, home)
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


def _check_home(settings: Settings) -> None:
    """Refuse a home that holds no state. A database elsewhere is backed up elsewhere."""
    if not settings.home.is_dir():
        raise Refused(f"the home {settings.home} does not exist", reason=Reason.NO_HOME, hint=_NO_HOME)
    if database_file(settings) == settings.home / "seatrial.db":
        require_database(settings)


def _check_target(target: Path, home: Path) -> None:
    if target.exists():
        raise Conflict(f"{target} exists", hint="give a folder that does not exist yet")
    if target.absolute().is_relative_to(home):
        raise Refused(f"{target} is inside the home", reason=Reason.BAD_TARGET, hint="give a folder outside of it, best on another disk")


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
        privacy.tighten(draft)  # a backup that was copied may have lost its permissions
        _give_identity(draft / "seatrial.db", source)
        if draft != home:
            draft.replace(home)
    return made


def read_mark(source: Path) -> Backup:
    """Return the description in a backup. Refused where the folder is not a whole backup, or is one of another format."""
    try:
        document = json.loads((source / MARK).read_text(encoding="utf-8"))
        found = document["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _not_a_backup(source, "cannot be read") from error
    if type(found) is not int or found != _FORMAT:
        raise Refused(
            f"{source} has format {found!r:.20}, expected {_FORMAT}", reason=Reason.NO_BACKUP, hint="use the release that made it"
        )
    for name, (expected, fits) in _FIELDS.items():
        if name not in document or not fits(document[name]):
            raise _not_a_backup(source, f"must have {expected} as {name!r}, got {document.get(name)!r:.100}")
    return Backup(_FORMAT, float(document["made_at"]), document["home"], document["bytes"], tuple(document["elsewhere"]))


def _not_a_backup(source: Path, why: str) -> Refused:
    return Refused(
        f"{source} is not a backup: {source / MARK} {why}", reason=Reason.NO_BACKUP, hint="give a folder that `seatrial backup` wrote"
    )


def _is_time(value: Any) -> bool:
    return type(value) in {int, float} and abs(value) < _LATEST_S


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "made_at": ("a time in seconds", _is_time),
    "home": ("a path", _is_text),
    "bytes": ("a number of bytes", _is_size),
    "elsewhere": ("a list of texts", _is_texts),
}


def database_file(settings: Settings) -> Path | None:
    """Return the file of an SQLite database, None for a database server."""
    from sqlalchemy import make_url  # noqa: PLC0415 - takes a moment, which `restore` does not need
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise Refused(
            "SEATRIAL_DATABASE_URL is not a database URL", reason=Reason.BAD_SETTING, hint="write sqlite:////file or postgresql://..."
        ) from error
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def require_database(settings: Settings) -> tuple[str, ...]:
    """Return the schema versions in the settings' SQLite file, none for a database server. Creates nothing.

    Raises Refused if the file does not exist or is not a database of the platform, Fault if it cannot be read.
    """
    file = database_file(settings)
    if file is None:
        return ()
    if not file.is_file():
        raise Refused(f"{settings.home} is not the home of a stack: {file} does not exist", reason=Reason.NO_HOME, hint=_NO_HOME)
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)) as database:
            ours = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            versions = [str(row[0]) for row in database.execute("SELECT version_num FROM alembic_version")] if ours else []
    except sqlite3.Error as error:
        hint = "check that you own the file; if it is damaged, restore a backup into another home"
        raise Fault(f"{file} cannot be read: {error}", hint=hint) from error
    if not versions:
        raise Refused(f"{settings.home} is not the home of a stack: {file} has no schema version", reason=Reason.NO_HOME, hint=_NO_HOME)
    return tuple(versions)


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, beside its writers, by SQLite's own backup."""
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET))
    try:
        with closing(sqlite3.connect(source, timeout=_BUSY_S)) as live, closing(sqlite3.connect(target)) as copy:
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


def _give_identity(database: Path, source: Path) -> None:
    """Make the copy an installation of its own: the original may still run, and share a weights store with it."""
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database)) as copy, copy:
            if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'installation'").fetchone():
                copy.execute("UPDATE installation SET id = ?", (uuid4().hex,))
    except sqlite3.Error as error:
        raise Fault(f"{source / database.name} cannot be restored: {error}", hint="restore another backup") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _copy_desired_states(home: Path, draft: Path) -> None:
    """Copy the desired states of the engines, not their status: its processes and ports belong to this machine."""
    for name in (files.FORMER_DESIRED, files.DESIRED):  # a home that only an earlier release has run has the former name
        for desired in sorted((home / "engines").glob(f"*/{name}")):
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
