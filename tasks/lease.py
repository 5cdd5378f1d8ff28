"""Holding a row while this process drives it: a thread renews the lease, and the lease expires when the process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from core.errors import Conflict, SeatrialError
from core.ids import Epoch, new_id
from core.ports import Clock


@cache
def _process() -> str:
    """Return the name of this process. Not made at the import, which the processes of several runs may have inherited."""
    return new_id("process")


def this_driver() -> str | None:
    """Return the name of this process as the driver of its flow run's row (`lifecycle/leases.py`); None outside a run."""
    run = flow_run.id
    return None if run is None else f"{run}/{_process()}"


def end_despite_sigterm() -> None:
    """Ignore SIGTERM from now on, in a process that the flow runner started for one run. The runner kills a process that takes long.

    Call it once the run's row has its end state: only the pages and the run's own state are left to write, and a stack that stops at
    this moment would leave a run that Prefect shows as crashed.
    """
    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def exit_if_orphaned() -> None:
    """End this process if the flow runner that asked for it has died before it began: another runner starts the run again."""
    if not _starter_lives():
        os._exit(1)


@contextmanager
def renewed(clock: Clock, lease_s: float, renew: Callable[[Epoch], object]) -> Iterator[None]:
    """Call `renew(lease_until)` from a thread while the block runs, four times in each `lease_s`.

    If the runner that started this process dies, this process exits too, as it could no longer be cancelled: reconcile then starts
    another run. It also exits when `renew` raises Conflict: its lease expired while it slept, and another process drives the row by now.
    """
    over = threading.Event()
    beat = threading.Thread(target=_keep, args=(clock, lease_s, renew, over), name="lease", daemon=True)
    beat.start()
    try:
        yield
    except TerminationSignal:
        end_despite_sigterm()  # a runner that stops sends several, and what releases the row must not be interrupted by the next one
        raise
    finally:
        over.set()
        beat.join()


def _keep(clock: Clock, lease_s: float, renew: Callable[[Epoch], object], over: threading.Event) -> None:
    parent = os.getppid()
    while not over.wait(lease_s / 4):
        if os.getppid() != parent or not _starter_lives():
            os._exit(1)
        try:
            renew(clock.now() + lease_s)
        except Conflict:
            os._exit(1)  # at once: what the other decides is not to be undone by what was decided here before
        except SeatrialError:
            continue  # the database is unavailable: the lease may expire; the next renewal detects a new holder


def _starter_lives() -> bool:
    """Return whether the process that started this one lives: the flow runner, where a fork server is the parent of this process."""
    starter = multiprocessing.parent_process()
    return starter is None or starter.is_alive()
