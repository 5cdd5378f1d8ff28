"""A background service: passes over the rows, one instance at a time, each part isolated from the others' failures.

A pass is due when the last one is older than the interval, when one was requested (`Leases.call`), or when `early` finds work
that should not wait. Instances share one row (`core/leases.py`): the instance that takes its lease makes the pass. Each part checks
the fence before it begins, and a part that deletes checks it before each deletion: an instance that lost its lease stops there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from core.errors import Conflict, SeatrialError
from core.ids import Epoch
from core.leases import LONGEST_S, Lease, LeaseWatch
from wiring import Platform

log = structlog.get_logger(__name__)

LEASE_S = 60.0
"""Duration of a lease; renewed by every call of the fence."""
_LOOK_S = 1.0
_RETRY_S = 5.0
"""Pause after a failed pass; doubles with each further failure, up to the interval."""

Fence = Callable[[], None]
"""Renews the lease. Raises Conflict when another instance took it."""
Part = Callable[[Platform, Fence], Sequence[str]]
"""One part of a pass. Returns one line for each change that it made. Errors: SeatrialError."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What a service does: its name, the interval between two passes (0: only when called), and the parts in their order."""

    name: str
    every_s: float
    parts: Sequence[tuple[str, Part]]
    early: Callable[[Platform, Epoch], bool] = field(default=lambda _here, _now: False)
    """Returns whether a pass should be made now; asked every `early_every_s` seconds, and not within `early_pause_s` after a pass."""
    early_every_s: float = 5.0
    early_pause_s: float = 15.0
    first_s: float = 0.0
    """Seconds that an instance waits before it makes the first pass that this installation has ever had."""


class Service:
    """One instance of a duty. `holder` names it in the lease."""

    def __init__(self, here: Platform, duty: Duty, holder: str) -> None:
        self._here = here
        self._duty = duty
        self._holder = f"{holder}/{duty.name}"
        self._looked_at = 0.0
        self._since = here.clock.monotonic()
        self._said = ""
        self._watch = LeaseWatch(LONGEST_S)
        self._isolated = ThreadPoolExecutor(1, thread_name_prefix=duty.name)

    def run(self, over: threading.Event) -> None:
        """Make every pass that is due until `over` is set. While the database is unavailable no pass is made."""
        try:
            while not over.wait(_LOOK_S):
                self.step()
        finally:
            self._isolated.shutdown(wait=False, cancel_futures=True)

    def step(self) -> bool:
        """Make a pass when one is due and no other instance makes it; return whether one was made."""
        try:
            row = self._here.records.leases.get(self._duty.name)
            if not self._due(row):
                return False
            self._free_stale(row)
            with self._held() as lease:
                if lease is None or (row is not None and lease.began_at != row.began_at):
                    return False  # another instance makes it, or has just made it
                self._make(lease)
        except Conflict as error:
            log.warning("service.superseded", service=self._duty.name, cause=error.what)
        except SeatrialError as error:
            self._say_once(error.what)
            return False
        self._said = ""
        return True

    def _due(self, row: Lease | None) -> bool:
        now = self._here.clock.now()
        if row is None:
            return self._duty.every_s > 0 and self._here.clock.monotonic() - self._since >= self._duty.first_s
        if row.called_at > row.began_at or row.began_at > now:  # the latter: the clock was set back since the last pass
            return True
        if self._duty.every_s > 0 and now >= row.began_at + self._pause_s(row):
            return True
        if now - self._looked_at < self._duty.early_every_s or now - row.began_at < self._duty.early_pause_s:
            return False
        self._looked_at = now
        return self._duty.early(self._here, now)

    def _pause_s(self, row: Lease) -> float:
        if not row.failures:
            return self._duty.every_s
        return min(self._duty.every_s, _RETRY_S * 2.0 ** min(row.failures - 1, 20))

    def _free_stale(self, row: Lease | None) -> None:
        """Free the lease of an instance that died, if it ends too late to wait for its end. One that lives after all is fenced off."""
        clock = self._here.clock
        if row is not None and self._watch.stale({row.holder: row.until}, clock.now(), clock.monotonic()):
            log.warning("service.lease_freed", service=self._duty.name, holder=row.holder, until=row.until)
            self._here.records.leases.release(row)

    @contextmanager
    def _held(self) -> Iterator[Lease | None]:
        leases, now = self._here.records.leases, self._here.clock.now()
        lease = leases.take(self._duty.name, self._holder, now, now + LEASE_S)
        try:
            yield lease
        finally:
            if lease is not None:
                leases.release(lease)

    def _make(self, lease: Lease) -> None:
        leases, clock = self._here.records.leases, self._here.clock
        lease = leases.begin(lease, clock.now())

        def fence() -> None:
            leases.renew(lease, clock.now() + LEASE_S)

        failed = []
        for name, part in self._duty.parts:
            fence()
            if (cause := self._attempt(name, part, fence)) is not None:
                failed.append(f"{name}: {cause}")
        leases.end(lease, clock.now(), "; ".join(failed))

    def _attempt(self, name: str, part: Part, fence: Fence) -> str | None:
        """Run one part on a thread of its own and return why it failed. A bug in one part must not end the others, or the process."""
        attempt = self._isolated.submit(part, self._here, fence)
        error = attempt.exception()
        if error is None:
            for change in attempt.result():
                log.info("service.changed", service=self._duty.name, part=name, change=change)
            return None
        if isinstance(error, Conflict) and not self._holds():
            raise error
        if isinstance(error, SeatrialError):
            log.warning("service.part_failed", service=self._duty.name, part=name, cause=str(error))
            return str(error)
        log.error("service.part_broken", service=self._duty.name, part=name, exc_info=error)
        return f"{type(error).__name__}: {error}"

    def _holds(self) -> bool:
        row = self._here.records.leases.get(self._duty.name)
        return row is not None and row.holder == self._holder

    def _say_once(self, cause: str) -> None:
        """Log an outage when it begins, not each second of it."""
        if cause != self._said:
            log.warning("service.waiting", service=self._duty.name, cause=cause)
            self._said = cause
