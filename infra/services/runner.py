"""`python -m infra.services.runner`: serves the flows' deployments and runs their runs, each in a process of its own."""

from __future__ import annotations

import asyncio
import threading

from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined] # where the documentation imports it from
from prefect.runner import Runner

from core.settings import read_settings
from flows.deploy_model import deploy_model
from flows.reconcile import reconcile
from tasks.pulse import beat
from wiring import Platform

_POLL_S = 1.0
_RUNS_AT_ONCE = 10


async def main() -> None:
    """Register both deployments and run what is due until SIGTERM, which ends the runs too."""
    settings = read_settings()
    runner = Runner(name="seatrial", query_seconds=_POLL_S, limit=_RUNS_AT_ONCE)
    await runner.aadd_flow(
        deploy_model,
        name="seatrial",
        description=deploy_model.__doc__,
        tags=["seatrial"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    await runner.aadd_flow(
        reconcile, name="seatrial", interval=settings.reconcile_s, tags=["seatrial"], entrypoint_type=EntrypointType.MODULE_PATH
    )
    over = threading.Event()
    pulse = threading.Thread(target=beat, args=(Platform(settings), over), name="pulse", daemon=True)
    pulse.start()
    try:
        await runner.start()
    finally:
        over.set()


if __name__ == "__main__":
    asyncio.run(main())
