"""Ends the leases of dead drivers whose end is too far in the future to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from core.benchmarks import BenchmarkState
from core.endpoints import OPEN_ROLLOUTS
from core.errors import Stale
from core.ids import Epoch
from core.leases import LeaseWatch
from core.ports import Clock, Records
from lifecycle.rollouts.driver import LEASE_S
from lifecycle.submissions import OPEN

_Leased = tuple[Epoch, Callable[[], object]]
"""The end of a row's lease, and the call that ends the lease. Raises Stale when the row has changed since."""


class StaleLeases:
    """Ends stale leases of submissions, benchmarks and rollouts; the parts after it resume the work. It remembers ends between passes."""

    def __init__(self, lease_s: float) -> None:
        self._runs = LeaseWatch(lease_s)
        self._rollouts = LeaseWatch(LEASE_S)

    def end(self, records: Records, clock: Clock, fence: Callable[[], None]) -> tuple[str, ...]:
        """Look at every open row, and return one line for each lease that was ended. Errors: Transient."""
        runs = {**_submissions(records, clock.now()), **_benchmarks(records, clock.now())}
        watched = ((self._runs, runs), (self._rollouts, _rollouts(records)))
        return tuple(change for watch, rows in watched for change in _ended(clock, fence, watch, rows))


def _ended(clock: Clock, fence: Callable[[], None], watch: LeaseWatch, rows: Mapping[str, _Leased]) -> Iterator[str]:
    ends = {name: until for name, (until, _end) in rows.items()}
    for name in sorted(watch.stale(ends, clock.now(), clock.monotonic())):
        fence()
        until, end = rows[name]
        with suppress(Stale):  # its driver renewed it, or another one took the row
            end()
            yield f"ended the lease of {name}, which its driver did not renew; it had {until - clock.now():.0f} s left"


def _submissions(records: Records, now: Epoch) -> dict[str, _Leased]:
    rows = records.submissions
    return {
        row.id: (row.lease_until, partial(rows.store, replace(row, lease_until=0.0), now)) for row in rows.find(states=OPEN, limit=1000)
    }


def _benchmarks(records: Records, now: Epoch) -> dict[str, _Leased]:
    rows = records.benchmarks
    running = rows.find(states=[BenchmarkState.RUNNING], limit=1000)
    return {row.id: (row.lease_until, partial(rows.store, replace(row, lease_until=0.0), now)) for row in running}


def _rollouts(records: Records) -> dict[str, _Leased]:
    rows = records.rollouts
    return {
        row.id: (row.lease_until, partial(rows.store, replace(row, lease_until=0.0))) for row in rows.find(states=OPEN_ROLLOUTS, limit=1000)
    }
