"""The lease of a row: renewed while the block runs, and the end of a process that another has replaced."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading

import pytest

from core.errors import Fault
from core.ports.clock import SystemClock
from tasks.lease import end_despite_sigterm, renewed

REPLACED = """
import threading
from core.errors import Conflict
from core.ports.clock import SystemClock
from tasks.lease import renewed

def renew(until):
    raise Conflict("another drives it by now", hint="watch that run")

with renewed(SystemClock(), 0.1, renew):
    threading.Event().wait(60)
"""


def test_a_lease_is_renewed_until_the_block_ends_also_while_the_database_is_away_for_a_while() -> None:
    seen: list[float] = []
    enough = threading.Event()

    def renew(until: float) -> None:
        seen.append(until)
        if len(seen) == 2:
            raise Fault("the database is away", hint="tried again")
        if len(seen) == 4:
            enough.set()

    with renewed(SystemClock(), 0.02, renew):
        assert enough.wait(30)
    count = len(seen)
    threading.Event().wait(0.1)
    assert len(seen) == count
    assert seen == sorted(seen)


def test_a_process_whose_row_another_drives_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", REPLACED], check=False)
    assert done.returncode == 1


def _end_after_sigterm(ended: bool) -> None:
    if ended:
        end_despite_sigterm()
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("ended", "exit_code"), [(True, 0), (False, -signal.SIGTERM)])
def test_a_run_whose_row_has_ended_is_not_stopped_by_sigterm(ended: bool, exit_code: int) -> None:
    run = multiprocessing.get_context("spawn").Process(target=_end_after_sigterm, args=(ended,))
    run.start()
    run.join()
    assert run.exitcode == exit_code


def test_a_process_that_is_no_run_still_ends_at_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    end_despite_sigterm()
    assert signal.getsignal(signal.SIGTERM) is before
