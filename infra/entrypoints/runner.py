"""`python -m infra.entrypoints.runner`: serves the flows' deployments and runs their runs, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import active_children
from typing import Any

from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined] # where the documentation imports it from
from prefect.runner import Runner

from core.settings import read_settings
from infra.entrypoints import heartbeat
from infra.entrypoints.background import background
from infra.entrypoints.deployments import Entry, deployments, remove_former
from infra.entrypoints.run_processes import RunProcesses
from wiring import Platform, platform

_POLL_S = 1.0
_RUNS_AT_ONCE = 10
_WARM_S = 60.0
"""How long the first runs wait for the fork server, which takes seconds; then they are spawned."""
_RUNS_END_S = 5.0
"""Seconds that a run has after SIGTERM to release its row; then its process is killed."""
_END_S = 15.0
"""Limit of the whole shutdown in seconds, as Prefect may be unavailable; a pod's grace period must be longer."""


async def main() -> None:
    """Register the deployments and run what is due until SIGTERM, which ends the runs too."""
    settings = read_settings()
    entries = tuple(deployments(settings))
    with background():  # before anything is asked of Prefect, which may be unavailable
        await remove_former(entries)
        await serve(entries, beats=platform())


async def serve(entries: Iterable[Entry], *, beats: Platform | None = None, warm_s: float = _WARM_S) -> None:
    """Register `entries` and run what is due of them until SIGTERM. Call it in the main thread.

    With `beats`, the runner leaves a heartbeat in that platform's database once it takes runs. It takes runs once their fork server is
    ready, or has failed, or after `warm_s` seconds.
    """
    told, warm = asyncio.Event(), asyncio.Event()
    from_thread = asyncio.get_running_loop().call_soon_threadsafe
    runner = _Runner(partial(from_thread, told.set), name="seatrial", query_seconds=_POLL_S, limit=_RUNS_AT_ONCE)
    signal.signal(signal.SIGTERM, runner.handle_sigterm)  # from now on: as a pod's first process we would not hear it without
    RunProcesses().install(partial(from_thread, warm.set))
    for entry in entries:
        await runner.aadd_flow(entry.flow, entrypoint_type=EntrypointType.MODULE_PATH, **entry.arguments())
    warming, telling = asyncio.create_task(warm.wait()), asyncio.create_task(told.wait())
    await asyncio.wait({warming, telling}, timeout=warm_s, return_when=asyncio.FIRST_COMPLETED)
    warming.cancel()
    running = asyncio.create_task(runner.start())
    beating = asyncio.create_task(heartbeat.beat(runner, beats, _RUNS_AT_ONCE)) if beats else None
    try:
        await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if beating is not None:
            beating.cancel()
    if not told.is_set():
        telling.cancel()
        await running  # raises what ended it
    await _end(running)


async def _end(running: asyncio.Task[None]) -> None:
    """Take no more runs, end those there are, and be gone by `_END_S` whatever hangs."""
    last_resort = threading.Timer(_END_S, os._exit, [0])
    last_resort.daemon = True
    last_resort.start()
    clock = asyncio.get_running_loop().time
    kill_at = clock() + _RUNS_END_S
    asked: set[int | None] = set()
    running.cancel()
    while (children := active_children()) or not running.done():
        for child in children:
            if clock() > kill_at:
                child.kill()
            elif child.pid not in asked:
                asked.add(child.pid)
                child.terminate()
        await asyncio.sleep(0.05)
    await asyncio.gather(running, return_exceptions=True)  # cancelled, or Prefect was unavailable: nothing left to do


class _Runner(Runner):
    """Prefect's, but SIGTERM is told to us.

    Its own handler (3.8.8) ends no run and then waits for all of them; its `stop()` would mark them cancelled, and such a run is not
    resumed: for reconcile somebody did not want it any more.
    """

    def __init__(self, tell: Callable[[], object], **options: Any) -> None:
        super().__init__(**options)
        self._tell = tell

    def handle_sigterm(self, *_args: Any, **_kwargs: Any) -> None:
        """Do what little a signal handler may."""
        self._tell()


if __name__ == "__main__":
    asyncio.run(main())
