"""Holding a row while this process drives it: a lease that is renewed from a thread and lost by itself when the process is killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.errors import Conflict, SeatrialError
from core.ids import Epoch
from wiring import Platform


@contextmanager
def renewed(here: Platform, renew: Callable[[Epoch], object]) -> Iterator[None]:
    """Call `renew(lease_until)` from a thread while the block runs.

    Should the runner that started this process die, this process ends too (nobody could cancel it any more): reconcile then starts
    another run. So does one whose `renew` raises Conflict: it slept through its lease, and another drives the row by now.
    """
    over = threading.Event()
    beat = threading.Thread(target=_keep, args=(here, renew, over), name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()


def _keep(here: Platform, renew: Callable[[Epoch], object], over: threading.Event) -> None:
    parent = os.getppid()
    while not over.wait(here.settings.lease_s / 4):
        if os.getppid() != parent:
            os._exit(1)
        try:
            renew(here.clock.now() + here.settings.lease_s)
        except Conflict:
            os._exit(1)  # at once: what the other decides is not to be undone by what was decided here before
        except SeatrialError:
            continue  # the database is away: the lease may run out, and who then takes the row is told apart by the next renewal
