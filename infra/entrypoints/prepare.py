"""`python -m infra.entrypoints.prepare`: prepares the database before a service starts: this release's schema and the operator's key.

In a pod it is the init container of every service, so `helm upgrade` and `kubectl apply` migrate alike. The first container migrates
under the database's lock, and the others then find the schema up to date. It waits for an unavailable database.
"""

from __future__ import annotations

import sys

from core.errors import SeatrialError, Transient
from core.ports.clock import Clock, SystemClock
from core.settings import Settings, read_settings
from wiring.home import prepare

_LIMIT_S = 300.0
_PAUSE_S = 2.0


def prepare_when_there(settings: Settings, clock: Clock, *, limit_s: float = _LIMIT_S) -> None:
    """Prepare, and retry every two seconds while the database is unavailable. Raises Transient after `limit_s`, other errors at once."""
    give_up = clock.monotonic() + limit_s
    while True:
        try:
            prepare(settings)
        except Transient as error:
            if clock.monotonic() > give_up:
                raise
            print(f"waiting: {error}", flush=True)
            clock.wait(_PAUSE_S)
        else:
            return


def main() -> int:
    """Prepare and return 0; else say in one line what is wrong and return 1."""
    try:
        prepare_when_there(read_settings(), SystemClock())
    except SeatrialError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("prepared: the database is at this release's schema")
    return 0


if __name__ == "__main__":
    sys.exit(main())
