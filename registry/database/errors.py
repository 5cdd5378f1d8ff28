"""The one place where SQLAlchemy's errors become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from core.errors import Conflict, Fault, Refused, SeatrialError, Transient
from core.reasons import Reason

_BUSY_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_AWAY = "look whether the database runs and is reachable; it is tried again"
_PASSING_CLASSES = ("08", "40", "53", "55", "57", "58")
"""PostgreSQL's classes: connection, rollback (deadlock), out of resources, lock not available, operator intervention, system."""
_READ_ONLY_STANDBY = "25006"


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLAlchemy's errors into Conflict, Refused, Transient or Fault. Messages carry no parameters and no row."""
    try:
        yield
    except exc.IntegrityError as error:
        raise Conflict(f"the database holds this already: {_cause(error)}", hint="read again, then decide") from error
    except (exc.DataError, OverflowError, UnicodeEncodeError) as error:
        raise Refused(
            f"a value that the database cannot hold: {_cause(error)}", reason=Reason.BAD_VALUE, hint="send a smaller one"
        ) from error
    except exc.TimeoutError as error:
        raise Transient("every connection to the database is in use", hint=_AWAY) from error
    except exc.DBAPIError as error:
        raise _of_driver(error) from error
    except exc.SQLAlchemyError as error:
        raise Fault(f"the database layer failed: {_cause(error)}", hint="report this; it is a bug") from error


def _of_driver(error: exc.DBAPIError) -> SeatrialError:
    cause = _cause(error)
    if error.connection_invalidated or isinstance(error, exc.InterfaceError) or _passes(error):
        return Transient(f"the database is unavailable or busy: {cause}", hint=_AWAY)
    hint = "see that the disk has room, and that `registry.database.migrate` ran for this database"
    return Fault(f"the database refuses: {cause}", hint=hint)


def _passes(error: exc.DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _BUSY_SQLITE
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:  # psycopg could not even connect, or the connection fell away
        return isinstance(error, exc.OperationalError)
    return state == _READ_ONLY_STANDBY or state.startswith(_PASSING_CLASSES)


def _cause(error: BaseException) -> str:
    """Return the driver's first line: what follows it may quote rows."""
    text = str(getattr(error, "orig", None) or error)
    return text.splitlines()[0][:300] if text else type(error).__name__
