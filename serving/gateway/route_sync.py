"""The gateway's background tasks: sync the routes, ship the spool, and restore the assignments after a restart."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from core.conversations import Assignment
from core.endpoints import Snapshot
from core.errors import Fault, Transient
from core.ports import Assignments, Clock, Ledger, Routes
from core.reasons import Reason
from serving.gateway.metrics import Metrics
from serving.gateway.responses import unavailable
from serving.gateway.upstream import Upstream

_log = logging.getLogger(__name__)
_MAX_PAUSE_S = 5.0
_T = TypeVar("_T")

StoredAssignments = Callable[[], Iterable[Assignment]]


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of the background tasks, in seconds."""

    refresh_s: float = 0.5
    heartbeat_s: float = 2.0
    ship_s: float = 0.2


class RouteSync:
    """Keeps the snapshot up to date. Blocking calls run on a separate thread pool, never on the event loop."""

    def __init__(
        self, routes: Routes, ledger: Ledger, assignments: Assignments, clock: Clock,
        *, metrics: Metrics, upstream: Upstream, name: str, intervals: Intervals, stored_assignments: StoredAssignments,
    ) -> None:  # fmt: skip
        self._routes = routes
        self._ledger = ledger
        self._assignments = assignments
        self._clock = clock
        self._metrics = metrics
        self._upstream = upstream
        self._name = name
        self._intervals = intervals
        self._stored_assignments = stored_assignments
        self._restored = False
        self._reported_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self.snapshot: Snapshot | None = None

    def current(self) -> Snapshot:
        """Return the snapshot in use. Rejected (503) before the first one."""
        if self.snapshot is None:
            raise unavailable(
                "the gateway has no routes yet", reason=Reason.STARTING, hint="the database may be away; try again in a moment"
            )
        return self.snapshot

    @property
    def alive(self) -> bool:
        """Whether the background tasks run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self) -> None:
        """Load the routes once, so that the first request finds them if the database is available; then start the background tasks."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="gateway")
        await self._refresh()
        self._tasks = [asyncio.create_task(self._sync(), name="sync"), asyncio.create_task(self._ship(), name="ship")]

    async def stop(self) -> None:
        """Stop the background tasks and ship the spool once more. Entries that cannot be shipped stay in the spool."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._ship_once()
        self._threads.shutdown(wait=False)
        self._upstream.keep_only(set())

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(self._intervals.refresh_s)
            await self._refresh()

    async def _refresh(self) -> None:
        """Load and use newer routes, then report their generation. While the database is unavailable, the routes in use stay."""
        try:
            await self._restore()
            newer = await self._on_thread(self._routes.load, None if self.snapshot is None else self.snapshot.generation)
            if newer is not None:
                self._use(newer)
            await self._report(changed=newer is not None)
        except (Transient, Fault) as error:
            _log.warning("routes not refreshed: %s", error.what, extra={"gateway": self._name})

    async def _restore(self) -> None:
        """Restore the assignments once, before the first routes: a conversation must keep its version when the gateway restarts."""
        if self._restored:
            return
        await self._on_thread(self._ledger.ship)
        stored = await self._on_thread(lambda: tuple(self._stored_assignments()))
        await self._assignments.restore(stored, self._clock.now())
        self._restored = True

    def _use(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        targets = (target for route in snapshot.routes.values() for target in (route.stable, route.candidate))
        self._upstream.keep_only({target.address for target in targets if target is not None and target.address is not None})
        self._metrics.show_routes(snapshot, self._clock.now())
        _log.info("routes updated", extra={"gateway": self._name, "generation": snapshot.generation})

    async def _report(self, *, changed: bool) -> None:
        if self.snapshot is None:
            return
        now = self._clock.monotonic()
        if changed or now - self._reported_at >= self._intervals.heartbeat_s:
            await self._on_thread(self._routes.report, self._name, self.snapshot.generation)
            self._reported_at = now

    async def _ship(self) -> None:
        pause_s = self._intervals.ship_s
        while True:
            await asyncio.sleep(pause_s)
            retry_s = min(_MAX_PAUSE_S, pause_s * 2) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
            pause_s = self._intervals.ship_s if await self._ship_once() else retry_s

    async def _ship_once(self) -> bool:
        spooled = self._metrics.spooled
        try:
            count = await self._on_thread(self._ledger.ship)
        except (Transient, Fault) as error:
            _log.warning("spool not shipped: %s", error.what, extra={"gateway": self._name})
            return False
        self._metrics.shipped_up_to = spooled
        self._metrics.shipped.inc(count)
        return True

    async def _on_thread(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
