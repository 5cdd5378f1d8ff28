"""`python -m infra.services.runner`: serves the flows' deployments and runs their runs, each in a process of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined] # where the documentation imports it from
from prefect.runner import Runner

from core.settings import Settings, read_settings
from infra.services.deployments import Entry, deployments
from tasks.pulse import beat
from wiring import Platform

_POLL_S = 1.0
_RUNS_AT_ONCE = 10


async def main() -> None:
    """Register the deployments and run what is due until SIGTERM, which ends the runs too."""
    settings = read_settings()
    await serve(settings, deployments(settings))


async def serve(settings: Settings, entries: Iterable[Entry]) -> None:
    """Register `entries`, run what is due of them, and keep the pulse, until SIGTERM."""
    runner = Runner(name="seatrial", query_seconds=_POLL_S, limit=_RUNS_AT_ONCE)
    for entry in entries:
        await runner.aadd_flow(entry.flow, entrypoint_type=EntrypointType.MODULE_PATH, **entry.arguments())
    over = threading.Event()
    pulse = threading.Thread(target=beat, args=(Platform(settings), over), name="pulse", daemon=True)
    pulse.start()
    try:
        await runner.start()
    finally:
        over.set()


if __name__ == "__main__":
    asyncio.run(main())
