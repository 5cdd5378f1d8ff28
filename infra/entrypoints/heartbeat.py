"""The flow runner's heartbeat: by it the control API, `seatrial up` and `seatrial doctor` know that runs are taken."""

from __future__ import annotations

import asyncio
import os
import socket

from prefect.runner import Runner

from core.errors import SeatrialError
from core.services import RUNNER_BEAT_S, RunnerBeat
from wiring import Platform


async def beat(runner: Runner, here: Platform, slots: int) -> None:
    """Leave a heartbeat while the runner takes runs. It comes from the runner's own loop: one that hangs leaves none."""
    host, began = socket.gethostname(), here.clock.now()
    while True:
        if runner.started:
            seen = RunnerBeat(host, os.getpid(), began, here.clock.now(), slots, full=not runner.has_slots_available())
            try:
                await asyncio.to_thread(here.records.runners.beat, seen)
            except SeatrialError as error:
                print(f"no heartbeat: {error}", flush=True)
        await asyncio.sleep(RUNNER_BEAT_S)
