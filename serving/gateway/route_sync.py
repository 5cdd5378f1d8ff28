"""What runs beside the requests: following the routes, shipping the spool, remembering conversations after a restart."""

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
from serving.gateway.metrics import Metrics
from serving.gateway.upstream import Upstream

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 5.0
_T = TypeVar("_T")

Remembered = Callable[[], Iterable[Assignment]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done, in seconds."""

    refresh_s: float = 0.5
    heartbeat_s: float = 2.0
    ship_s: float = 0.2


class Follower:
    """Holds the snapshot in use. Every blocking call runs on a thread of its own pool, never on the event loop."""

    def __init__(
        self, routes: Routes, ledger: Ledger, assignments: Assignments, clock: Clock,
        *, metrics: Metrics, upstream: Upstream, name: str, pace: Pace, remembered: Remembered,
    ) -> None:  # fmt: skip
        self._routes = routes
        self._ledger = ledger
        self._assignments = assignments
        self._clock = clock
        self._metrics = metrics
        self._upstream = upstream
        self._name = name
        self._pace = pace
        self._remembered = remembered
        self._restored = False
        self._reported_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self.snapshot: Snapshot | None = None

    @property
    def alive(self) -> bool:
        """Whether the background work goes on."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self) -> None:
        """Look once, so that a gateway is ready from its first request where the database is there; then go on in the background."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="gateway")
        await self._refresh()
        self._tasks = [asyncio.create_task(self._follow(), name="follow"), asyncio.create_task(self._ship(), name="ship")]

    async def stop(self) -> None:
        """End the background work and ship what is left; what cannot be shipped stays in the spool."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._ship_once()
        self._threads.shutdown(wait=False)
        self._upstream.forget(set())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._pace.refresh_s)
            await self._refresh()

    async def _refresh(self) -> None:
        """Put newer routes in use, then report it. While the database is unavailable the routes in use stay."""
        try:
            await self._restore()
            newer = await self._on_thread(self._routes.load, None if self.snapshot is None else self.snapshot.generation)
            if newer is not None:
                self._use(newer)
            await self._report(changed=newer is not None)
        except (Transient, Fault) as error:
            _log.warning("routes not refreshed: %s", error.what, extra={"gateway": self._name})

    async def _restore(self) -> None:
        """Restore the assignments once, before following the first route: a gateway restart must not draw a conversation again."""
        if self._restored:
            return
        await self._on_thread(self._ledger.ship)
        remembered = await self._on_thread(lambda: tuple(self._remembered()))
        await self._assignments.restore(remembered, self._clock.now())
        self._restored = True

    def _use(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        targets = (target for route in snapshot.routes.values() for target in (route.stable, route.candidate))
        self._upstream.forget({target.address for target in targets if target is not None and target.address is not None})
        self._metrics.follow(snapshot, self._clock.now())
        _log.info("routes followed", extra={"gateway": self._name, "generation": snapshot.generation})

    async def _report(self, *, changed: bool) -> None:
        if self.snapshot is None:
            return
        now = self._clock.monotonic()
        if changed or now - self._reported_at >= self._pace.heartbeat_s:
            await self._on_thread(self._routes.report, self._name, self.snapshot.generation)
            self._reported_at = now

    async def _ship(self) -> None:
        pause_s = self._pace.ship_s
        while True:
            await asyncio.sleep(pause_s)
            longer_s = min(_LONGEST_PAUSE_S, pause_s * 2) * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
            pause_s = self._pace.ship_s if await self._ship_once() else longer_s

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
