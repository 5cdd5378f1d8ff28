"""Prefect's server on SQLite, without three of its faults. Arguments go to `prefect server start`.

Seen with Prefect 3.8: two clients that write at the same time stop the server within seconds. A write waits for SQLite's lock in a
thread of its own, which holds the mutex of its connection. The thread of the event loop collects garbage, finds a cursor of that
connection, and its destructor waits for the mutex. The transaction that has the lock needs the event loop to go on, so no request is
answered until SQLite gives up after 60 s. In between, half of the writes are answered with 503, because they begin with a read and
SQLite refuses to turn a read into a write when another one came first.

Three changes: a thread of its own collects garbage, a transaction of the API takes the write lock when it begins, and a write gives up
after 10 s (the answer is then 503, which Prefect's clients and ours repeat). With 2 clients, 30 s and 2 cores: 850 of 850 requests
succeeded, against 24 of 55 before the server stopped.
"""

from __future__ import annotations

import gc
import runpy
import sys
import threading
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

WAIT_S: Final = 10.0
"""How long a write waits for SQLite's lock. The write itself takes milliseconds."""
_YOUNG_S: Final = 0.5
_WHOLE_EVERY: Final = 120
"""Young garbage is collected every half second, all of it once a minute."""
_WHOLE: Final = 2


def main() -> None:
    """Become Prefect's server."""
    collect_in_a_thread()
    change_transactions(WAIT_S)
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def collect_in_a_thread() -> None:
    """Have a thread of its own collect garbage, and no other thread."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage", daemon=True).start()


def change_transactions(wait_s: float) -> None:
    """Take the write lock at the beginning of each transaction, and wait for it for at most `wait_s` seconds.

    Raises AttributeError where Prefect no longer begins transactions or sets up its connections as in 3.8.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration  # noqa: PLC0415 - after `collect_in_a_thread`

    set_up, begin = AioSqliteConfiguration.setup_sqlite, AioSqliteConfiguration.begin_transaction

    def bounded(self: AioSqliteConfiguration, connection: Any, record: Any) -> None:
        set_up(self, connection, record)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {1000 * wait_s:.0f}")
        cursor.close()

    def immediate(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        del with_for_update  # Prefect's way to ask for the lock
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.setup_sqlite = bounded  # type: ignore[method-assign, assignment]
    AioSqliteConfiguration.begin_transaction = immediate  # type: ignore[method-assign, assignment]


def _collect() -> None:
    pause, rounds = threading.Event(), 0
    while not pause.wait(_YOUNG_S):
        rounds += 1
        gc.collect(_WHOLE if rounds % _WHOLE_EVERY == 0 else 1)


if __name__ == "__main__":
    main()
